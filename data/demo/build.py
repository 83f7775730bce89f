"""Build the demo corpus from two Debian packages: allison.zip (the recordings, byte for byte) and transcripts.jsonl.

    python data/demo/build.py              # fetches the packages with `apt-get download`
    python data/demo/build.py FOLDER       # ... or takes the folder that `dpkg -x` unpacked them into

The same packages give the same bytes. Transcripts are changed by the rules below and by nothing else; one whose
wording changed keeps the published one in its field "published".
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = ("asterisk-core-sounds-en=1.6.1-1", "asterisk-core-sounds-en-g722=1.6.1-1")
SOUNDS = "usr/share/asterisk/sounds/en_US_f_Allison"
TRANSCRIPTS = "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"

# A transcript that is one bracketed description was not spoken: [beep tone], <beep ascending>, (2 seconds of silence).
NOT_SPEECH = re.compile(r"[\[(<][^\])>]*[\])>]")

# In this order. The rules that change a word were checked against what Whisper hears in the recordings.
RULES: tuple[tuple[str, str], ...] = (
    (r"\(note: [^)]*\)", ""),  # IAX (note: does not say "2")
    (r"\(simple tone sound plays\)", ""),  # there is no tone in this recording
    (r" \[.\]$", ""),  # the sign that the word names: dash [-]
    (r"^\.\.\.|\.\.\.$", ""),  # marks a prompt that is spoken before or after another
    (r"\*", "star"),  # press * to toggle pause
    (r"#", "pound"),  # press # to enter a new dictation filename
    (r"\bumute\b", "unmute"),  # misspelt in the published list, as the rest
    (r"\bfourtieth\b", "fortieth"),
    (r"\brepresenatives\b", "representatives"),
    (r"\bUn-indentified or witheld\b", "Unidentified or withheld"),
    (r"\bexclaimation-point\b", "exclamation point"),
    (r"\bi\b(?= (?:connect|don't|have))", "I"),  # please wait while i connect your call
    (r"\s+", " "),
)


def clean(published: str) -> str:
    """The words that are spoken in the recording of `published`."""
    text = published
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text.strip())
    return text


def read_transcripts(packed: bytes) -> dict[str, str]:
    """Prompt name to published text. Lines are `name: text`; those that start with a semicolon are comments."""
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if line.strip() and not line.startswith(";"))
    return {name.strip(): text.strip() for name, text in pairs}


def row(name: str, published: str) -> dict[str, str]:
    entry = {"id": name.replace("/", "_"), "audio": f"allison.zip/{name}.g722"}
    if NOT_SPEECH.fullmatch(published):
        return entry | {"text": published, "exclude": "not speech: the published transcript describes a sound"}
    text = clean(published)
    changed = text != " ".join(published.split())  # double spaces apart
    return entry | {"text": text} | ({"published": published} if changed else {})


def build(unpacked: Path, target: Path) -> None:
    published = read_transcripts((unpacked / TRANSCRIPTS).read_bytes())
    folder = unpacked / SOUNDS
    sounds = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.g722")}
    if without := sorted(set(sounds) - set(published)):
        sys.exit(f"{TRANSCRIPTS}: no text for {', '.join(without)}")
    with zipfile.ZipFile(target / "allison.zip", "w") as archive:
        for name in sorted(sounds):
            # A fixed time, mode and system: the archive depends on the recordings alone.
            info = zipfile.ZipInfo(f"{name}.g722", date_time=(1980, 1, 1, 0, 0, 0))
            info.external_attr, info.create_system = 0o644 << 16, 3
            archive.writestr(info, sounds[name].read_bytes())
    rows = [row(name, published[name]) for name in sorted(sounds)]
    (target / "transcripts.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in rows))
    excluded = sum("exclude" in entry for entry in rows)
    changed = sum("published" in entry for entry in rows)
    print(f"{len(rows)} recordings, {excluded} not speech, {changed} transcripts changed")
    print("texts without a recording:", ", ".join(sorted(set(published) - set(sounds))) or "none")


def unpack(folder: Path) -> Path:
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True)
    for package in sorted(folder.glob("*.deb")):
        subprocess.run(["dpkg", "-x", package.name, "unpacked"], cwd=folder, check=True)
    return folder / "unpacked"


if __name__ == "__main__":
    here = Path(__file__).parent
    if len(sys.argv) > 1:
        build(Path(sys.argv[1]), here)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            build(unpack(Path(scratch)), here)

"""Rebuild the tiny base of one family: sentences made here, synthetic voices, and people for the decoder.

    python -m stages.bases --model cosyvoice3        (make bases MODEL=cosyvoice3)

Reads models/<family>/tiny/recipe.yaml, writes the weights, the curves and the figures beside it. Everything random is
seeded; a killed run goes on where it stopped. What families share (the voices, the encoder's features) is made once.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import yaml
from tqdm import tqdm

import models
from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Example, Family
from models.parts.precision import repeatable
from models.parts.weights import save_half
from models.small import phones, vocoder, whisper
from models.small.linear_codec import LinearCodec, LinearNetwork
from models.small.voiceprint import voiceprint
from stages.bases.codec import CodecFit, Measured, Source
from stages.bases.debian import DOWNLOADS
from stages.bases.loop import write_curve
from stages.bases.natural import read_naturally
from stages.bases.network import hidden_states, phones_at, train
from stages.bases.people import SPEAKERS, recordings
from stages.bases.sentences import example_sentences, stream
from stages.bases.voices import synthesise
from stages.common.cli import run
from stages.common.files import read_json, read_jsonl, staged, write_json, write_jsonl
from stages.common.shards import Shards, write_shards

SCRATCH = Path(".scratch/bases")
CHUNK = 200  # clips that the encoder takes in one go
ORIGIN = (
    "A small base trained by this repository (recipe.yaml beside it), not the released model. Its language model has heard "
    "synthetic voices alone; its decoder also people, the demo speaker's training clips among them."
)
ORIGIN_OF_VALUES = (
    "A small base trained by this repository (recipe.yaml beside it), not the released model. Network and codec have heard "
    "synthetic voices alone."
)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="stages.bases", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    name = parser.parse_args(argv).model
    family = models.load(name)
    folder = Path(f"models/{name}/tiny")
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder}/recipe.yaml: not there; a tiny base is made from its recipe")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    repeatable()  # two families train side by side
    started = time.monotonic()
    # 1. Voices that read made-up sentences.
    said = voices(recipe["voices"], "sentences", synthesise)
    texts = {row["id"]: row for row in read_jsonl(said / "manifest.jsonl")}
    for row in texts.values():
        phones.remember(row["text"], (phone for phone, _ in row["phones"]))
    if recipe["codec"]["config"]["kind"] == "linear":
        of_values(family, recipe, said, texts, folder, started)
        return
    # 2. Natural voices, people for the decoder, what the speech encoder makes of them all, and the codec.
    spoken = [prepared(said)]
    aligned = [*texts.values()]
    if "natural" in recipe["voices"]:
        read = voices(recipe["voices"], "natural", read_naturally)
        spoken, aligned = [*spoken, prepared(read)], read_jsonl(read / "manifest.jsonl")
        texts |= {row["id"]: row for row in aligned}
    people = apart(prepared(recorded_people(**recipe["codec"]["people"]))) if recipe["codec"]["people"] else []
    fit = CodecFit(recipe["codec"]["config"], recipe["codec"])
    aligned = aligned[: recipe["codec"]["aligned_clips"]]
    explained = fit.fit_quantisers(spoken[-1], {row["id"]: row["phones"] for row in aligned}, people)
    codes = [fit.codes(source) for source in spoken]
    heard = [(spoken[-1], codes[-1]), *((source, fit.codes(source)) for source in people)]
    decoder_curve = fit.fit_decoder(heard, SCRATCH / name)
    write_json(folder / "codec" / "config.json", recipe["codec"]["config"])
    save_half(fit.network, folder / "codec" / "model.safetensors")
    # 3. The network, from random weights.
    source_of = {clip_id: source for source in spoken for clip_id in source.ids}
    examples = [Example(i, texts[i]["text"], texts[i]["speaker"], c.numpy().astype(np.int32)) for some in codes for i, c in some.items() if len(c) > 2]
    if family.told_who_speaks:
        examples = [replace(example, speaker_embedding=voiceprint(source_of[example.id].analysis(example.id))) for example in examples]
    examples = family.base_examples(examples, lambda clip_id: fit.points(source_of[clip_id], clip_id))
    network, curve = train(family, recipe, examples, {*spoken[-1].ids}, SCRATCH / name)
    family.save(network, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"origin": ORIGIN})
    # 4. Where the decoder takes the network's hidden states as well: the layer between them.
    if latents := hidden_states(family, network, examples, {*spoken[-1].ids}, recipe):
        latents_curve = fit.fit_latents(spoken[-1], codes[-1], latents, SCRATCH / name)
        save_half(fit.network, folder / "codec" / "model.safetensors")
        write_curve(folder / "latents_curve.jsonl", latents_curve)
    # 5. How it went.
    write_curve(folder / "decoder_curve.jsonl", decoder_curve)
    tell(folder, texts, len(examples), network, curve, started, variance_explained=[round(value, 3) for value in explained], decoder_loss=decoder_curve[-1]["train"])


def of_values(family: Family, recipe: dict, said: Path, texts: dict[str, dict], folder: Path, started: float) -> None:
    """The same for a codec of values: no speech encoder, no people and no decoder; the vocoder's frames are all that it needs."""
    # 2. The codec.
    analysis = measured(Shards(said), "vocoder", vocoder.analyse, vocoder.BANDS)
    config, network = recipe["codec"]["config"], LinearNetwork(recipe["codec"]["config"])
    clips = random.Random(recipe["codec"]["seed"]).sample(sorted(analysis.index), min(len(analysis.index), recipe["codec"]["clips"]))
    explained = network.fit(torch.cat([whole(analysis[clip_id], config["step"]) for clip_id in clips]))
    write_json(folder / "codec" / "config.json", config)
    save_half(network, folder / "codec" / "model.safetensors")
    # 3. The network, from random weights, on what the codec makes of the voices.
    codec = LinearCodec(folder / "codec")
    patches = {i: max(1, round(texts[i]["seconds"] * codec.contract.token_rate)) for i in analysis.index}
    examples = [Example(i, texts[i]["text"], texts[i]["speaker"], codec.patches(analysis[i], count)) for i, count in patches.items()]
    frames = codec.patch * codec.contract.token_rate  # a second
    heard = {i: phones_at(texts[i]["phones"], (np.arange(count * codec.patch) + 0.5) / frames).reshape(count, -1) for i, count in patches.items()}
    trained, curve = train(family, recipe, examples, {*patches}, SCRATCH / family.name, heard)
    family.save(trained, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"origin": ORIGIN_OF_VALUES})
    # 4. How it went.
    tell(folder, texts, len(examples), trained, curve, started, variance_explained=[round(explained, 3)])


def whole(analysis: np.ndarray, step: int) -> torch.Tensor:
    """The vocoder's frames of a clip, as many as make whole frames of the codec."""
    return torch.from_numpy(analysis[: len(analysis) // step * step])


def tell(folder: Path, texts: dict[str, dict], clips: int, network: torch.nn.Module, curve: list[dict], started: float, **figures: object) -> None:
    """curve.jsonl, figures.json, and a line."""
    write_curve(folder / "curve.jsonl", curve)
    write_json(folder / "figures.json", {
        "hours": round(sum(row["seconds"] for row in texts.values()) / 3600, 2), "clips": clips, **figures,
        "validation_loss": curve[-1]["validation"], "minutes": round((time.monotonic() - started) / 60),
        "parameters": sum(p.numel() for p in network.parameters()),
    })  # fmt: skip
    print(f"{folder}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.1f} MB, validation loss {curve[-1]['validation']}")


def voices(recipe: dict, kind: str, read: Callable[[Path, list[str], int], list[dict]]) -> Path:
    """The folder of a synthetic corpus: audio shards and a manifest (id, text, speaker, phones, seconds). `recipe[kind]` of the
    made-up sentences, by what `read` makes of them."""
    folder = SCRATCH / f"{'voices' if kind == 'sentences' else kind}-{recipe['seed']}-{recipe[kind]}"
    if not folder.is_dir():
        with staged(folder) as partial:
            texts = stream(recipe["seed"], example_sentences(DOWNLOADS))
            write_jsonl(partial / "manifest.jsonl", read(partial, list(islice(texts, recipe[kind])), recipe["seed"]))
    return folder


def recorded_people(packages: list[str], corpus: str | None) -> Path:
    """The folder of the people's recordings, as audio shards."""
    folder = SCRATCH / "-".join(["people", *(SPEAKERS[package] for package in packages), Path(corpus or "").name])
    if not folder.is_dir():
        with staged(folder) as partial:
            write_shards(partial, recordings(packages, Path(corpus) if corpus else None, DOWNLOADS))
    return folder


def prepared(audio_folder: Path) -> Source:
    """The recordings of a folder with what the speech encoder and the vocoder make of them."""
    audio = Shards(audio_folder)
    features = measured(audio, "features", whisper.features, whisper.WIDTH)
    analysis = measured(audio, "vocoder", vocoder.analyse, vocoder.BANDS)
    ids = [clip_id for clip_id in audio.ids() if clip_id in features]
    return Source(audio, features.__getitem__, analysis.__getitem__, ids, {clip_id: voice_of(clip_id) for clip_id in ids})


def measured(audio: Shards, name: str, measure: Callable[[np.ndarray], np.ndarray], width: int) -> Measured:
    """`measure(wave at 16 kHz)` (n, width) of every recording that the encoder takes whole; kept in half precision."""
    folder = audio.folder.with_name(f"{audio.folder.name}-{name}")
    if not folder.is_dir():
        with staged(folder) as partial:
            at, where = 0, {}
            with (partial / "frames.f16").open("wb") as out:
                ids = audio.ids()
                for start in tqdm(range(0, len(ids), CHUNK), desc=name, unit=f"{CHUNK} clips", mininterval=5):
                    clips = [audio[clip_id] for clip_id in ids[start : start + CHUNK]]
                    short = [clip for clip in clips if len(clip.audio) <= whisper.MAX_SECONDS * whisper.SAMPLE_RATE]
                    for clip, frames in zip(short, each(lambda c: measure(c.audio).astype(np.float16), short), strict=True):
                        frames.tofile(out)
                        where[clip.id] = (at, len(frames))
                        at += len(frames)
            write_json(partial / "index.json", where)
    return Measured(read_json(folder / "index.json"), np.memmap(folder / "frames.f16", np.float16, "r").reshape(-1, width))


def apart(people: Source) -> list[Source]:
    """The packages' people, and the speaker of the corpus, who is heard as much as all of them together."""
    packaged: dict[bool, list[str]] = {True: [], False: []}
    for clip_id in people.ids:
        packaged[clip_id.split("-")[0] in SPEAKERS.values()].append(clip_id)
    return [replace(people, ids=ids) for ids in packaged.values() if ids]


def voice_of(clip_id: str) -> str:
    """ "slt-000123" is slt, and "june-path/to-prompt-0.88" is june played slowly."""
    speaker, *_, last = clip_id.split("-")
    return f"{speaker}-{last}" if "." in last else speaker


if __name__ == "__main__":
    run(main)

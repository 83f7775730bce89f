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
    # 1. Voices that read made-up sentences: synthetic ones all of them, natural ones the first.
    read = [voices(recipe["voices"], "sentences", synthesise)]
    if "natural" in recipe["voices"]:
        read.append(voices(recipe["voices"], "natural", read_naturally))
    texts = [read_jsonl(said / "manifest.jsonl") for said in read]
    for row in texts[0]:
        phones.remember(row["text"], (phone for phone, _ in row["phones"]))
    # 2. The codec, and what it makes of the voices; 3. the network, from random weights; 4. how it went.
    (of_values if recipe["codec"]["config"]["kind"] == "linear" else of_codes)(family, recipe, read, texts, folder, started)


def of_codes(family: Family, recipe: dict, read: list[Path], texts: list[list[dict]], folder: Path, started: float) -> None:
    """With a codec of codes: what the speech encoder makes of the voices, and a decoder that hears people besides."""
    # 2. People for the decoder, and the codec.
    spoken = [prepared(said) for said in read]
    people = apart(prepared(recorded_people(**recipe["codec"]["people"]))) if recipe["codec"]["people"] else []
    fit = CodecFit(recipe["codec"]["config"], recipe["codec"])
    aligned = texts[-1][: recipe["codec"]["aligned_clips"]]
    explained = fit.fit_quantisers(spoken[-1], {row["id"]: row["phones"] for row in aligned}, people)
    codes = [fit.codes(source) for source in spoken]
    heard = [(spoken[-1], codes[-1]), *((source, fit.codes(source)) for source in people)]
    decoder_curve = fit.fit_decoder(heard, SCRATCH / family.name)
    write_json(folder / "codec" / "config.json", recipe["codec"]["config"])
    save_half(fit.network, folder / "codec" / "model.safetensors")
    # 3. The network.
    by_id, source_of = rows_of(texts), {clip_id: source for source in spoken for clip_id in source.ids}
    examples = [Example(i, by_id[i]["text"], by_id[i]["speaker"], c.numpy().astype(np.int32)) for some in codes for i, c in some.items() if len(c) > 2]
    if family.told_who_speaks:
        examples = [replace(example, speaker_embedding=voiceprint(source_of[example.id].analysis(example.id))) for example in examples]
    examples, last = family.base_examples(examples, lambda clip_id: fit.points(source_of[clip_id], clip_id)), {*spoken[-1].ids}
    network, curve = train(family, recipe, examples, last, SCRATCH / family.name)
    family.save(network, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"origin": ORIGIN})
    if latents := hidden_states(family, network, examples, last, recipe):  # the decoder takes them as well, through a layer of its own
        latents_curve = fit.fit_latents(spoken[-1], codes[-1], latents, SCRATCH / family.name)
        save_half(fit.network, folder / "codec" / "model.safetensors")
        write_curve(folder / "latents_curve.jsonl", latents_curve)
    # 4. How it went.
    write_curve(folder / "decoder_curve.jsonl", decoder_curve)
    figures = {"variance_explained": [round(value, 3) for value in explained], "decoder_loss": decoder_curve[-1]["train"]}
    tell(folder, texts, len(examples), network, curve, started, **figures)


def of_values(family: Family, recipe: dict, read: list[Path], texts: list[list[dict]], folder: Path, started: float) -> None:
    """With a codec of values: no speech encoder, no people and no decoder; the vocoder's frames are all that it needs."""
    # 2. The codec.
    spoken = [measured(Shards(said), "vocoder", vocoder.analyse, vocoder.BANDS) for said in read]
    config, network = recipe["codec"]["config"], LinearNetwork(recipe["codec"]["config"])
    clips = random.Random(recipe["codec"]["seed"]).sample(sorted(spoken[-1].index), min(len(spoken[-1].index), recipe["codec"]["clips"]))
    explained = network.fit(torch.cat([whole(spoken[-1][clip_id], config["step"]) for clip_id in clips]))
    write_json(folder / "codec" / "config.json", config)
    save_half(network, folder / "codec" / "model.safetensors")
    # 3. The network.
    codec, by_id = LinearCodec(folder / "codec"), rows_of(texts)
    analysis = {clip_id: source for source in spoken for clip_id in source.index}
    patches = {i: max(1, round(by_id[i]["seconds"] * codec.contract.token_rate)) for i in analysis}
    examples = [Example(i, by_id[i]["text"], by_id[i]["speaker"], codec.patches(analysis[i][i], count)) for i, count in patches.items()]
    frames = codec.patch * codec.contract.token_rate  # a second
    said = {i: phones_at(by_id[i]["phones"], (np.arange(count * codec.patch) + 0.5) / frames).reshape(count, -1) for i, count in patches.items()}
    trained, curve = train(family, recipe, examples, {*spoken[-1].index}, SCRATCH / family.name, said)
    family.save(trained, folder)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"origin": ORIGIN_OF_VALUES})
    # 4. How it went.
    tell(folder, texts, len(examples), trained, curve, started, variance_explained=[round(explained, 3)])


def rows_of(texts: list[list[dict]]) -> dict[str, dict]:
    """The rows of all manifests, by id."""
    return {row["id"]: row for rows in texts for row in rows}


def whole(analysis: np.ndarray, step: int) -> torch.Tensor:
    """The vocoder's frames of a clip, as many as make whole frames of the codec."""
    return torch.from_numpy(analysis[: len(analysis) // step * step])


def tell(folder: Path, texts: list[list[dict]], clips: int, network: torch.nn.Module, curve: list[dict], started: float, **figures: object) -> None:
    """curve.jsonl, figures.json, and a line."""
    write_curve(folder / "curve.jsonl", curve)
    write_json(folder / "figures.json", {
        "hours": round(sum(row["seconds"] for row in rows_of(texts).values()) / 3600, 2), "clips": clips, **figures,
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

"""The codec of CosyVoice 2 or 3 as it was released, as `Codec` (FunAudioLLM/CosyVoice, cosyvoice/cli/model.py and frontend.py)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torchaudio

from models.parts.each import each
from models.parts.errors import UserError
from models.parts.family import Codec, Generation, Voice
from models.parts.speech_lm import SpeechLM
from models.released import campplus, s3
from models.released.cosyvoice.files import FLOW, HIFT, SPEAKER, part, read_vocoder, tokeniser
from models.released.fixed_noise import FRAMES as LONGEST
from models.released.fixed_noise import flow_table, vocoder_noise
from models.released.flow import BANDS, FRAMES, Flow
from models.released.hift import FRAME, HARMONICS, RATE, HiFT, Noise, framed_sines
from models.released.mel import LogMel
from models.released.s3_codec import Conditions, S3Codec, filled, flow_like, hift_like
from models.released.shapes import Shapes, shapes_of
from models.released.stored import read_stored

HIGH = {2: 8000, 3: 12000}  # Hz, of the mel, by version
UPSAMPLING = {2: "linear", 3: "nearest"}
# Version 3's codes of silence; upstream lets so many of them in a row through to the flow. The language model hears all.
SILENT, SILENCE = (1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323), 5


class CosyVoiceCodec(S3Codec):
    """The decoder hears the reference's codes, its mel and the speaker's vector."""

    def __init__(self, weights: Path, version: int):
        self.version = version
        self.mel = LogMel(rate=RATE, bands=BANDS, window=1920, hop=FRAME, high=HIGH[version])
        flow, hift = part(weights, FLOW), part(weights, HIFT)
        flow_state, hift_state = read_stored(flow), read_vocoder(hift)
        with torch.device("meta"):
            parts = flow_of(shapes_of(flow_state), version, flow), hift_of(shapes_of(hift_state), version, hift)
        self.graph = weights / tokeniser(version)
        super().__init__(version, s3.from_onnx(self.graph, version), filled(parts[0], flow_state, flow), filled(parts[1], hift_state, hift))
        self.speaker = session(weights / SPEAKER)

    def heard(self, wave: np.ndarray) -> np.ndarray:
        heard: np.ndarray = torchaudio.functional.resample(torch.from_numpy(wave), RATE, s3.RATE).numpy()
        return heard

    def speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        """Float32 (192,), as loud as it comes: upstream takes the mean of a speaker's before it is normalised."""
        return each(self._speaker_embedding, [wave], self.device)[0]

    def _speaker_embedding(self, wave: np.ndarray) -> np.ndarray:
        heard = self.heard(wave) if len(wave) else wave
        if len(heard) < campplus.SHORTEST:
            raise UserError(f"a clip of {len(wave)} samples ({len(wave) / RATE:.3f} s) is too short for a speaker vector; raise corpus.min_seconds")
        bands = campplus.filter_bank(torch.from_numpy(heard))
        (vectors,) = self.speaker.run(None, {self.speaker.get_inputs()[0].name: bands[None].numpy()})
        vector: np.ndarray = np.asarray(vectors, np.float32).reshape(-1)
        return vector

    def prompt(self, wave: np.ndarray) -> np.ndarray:
        """As many codes (P, 1) as the mel has frames for: with one more, everything after it would shift."""
        return self.encode([wave])[0][: len(wave) // FRAME // FRAMES]

    def conditions(self, reference: np.ndarray, voice: Voice) -> Conditions:
        codes = self.tensor(voice.prompts[0].codes[:, 0].astype(np.int64))
        mel = self.mel(self.tensor(reference)[None])[0, : FRAMES * len(codes)]
        return Conditions(codes, mel, self.tensor(voice.speaker_embedding))

    def flow_noise(self, frames: int, source: torch.Generator) -> torch.Tensor:
        if frames > LONGEST:
            raise UserError(f"a take of {frames / FRAMES / s3.TOKEN_RATE:.0f} s, its reference included: the decoder speaks {LONGEST / FRAMES / s3.TOKEN_RATE:.0f} s at most; cut the text in parts")
        return flow_table()[:, :frames]

    def vocoder_noise(self, frames: int, source: torch.Generator) -> Noise:
        if self.version == 3:
            return vocoder_noise(frames)
        return Noise(torch.randn(frames * FRAME, HARMONICS, generator=source), torch.zeros(HARMONICS))

    def tuned(self, network: torch.nn.Module) -> Codec:
        assert isinstance(network, SpeechLM)
        if network.flow is None:
            return self
        codec = copy(self)
        codec.flow = network.flow
        return codec

    def render(self, generations: Sequence[Generation], voice: Voice) -> list[np.ndarray]:
        """Long silences of version 3 are shortened, as upstream does with what was generated, not with recordings."""
        if self.version == 3:
            generations = [replace(one, codes=shortened(one.codes)) for one in generations]
        return super().render(generations, voice)

    def disagreement(self, waves: Sequence[np.ndarray]) -> float | None:
        """With the release's own graph: upstream runs that, one clip at a time."""
        graph = session(self.graph)
        feats, length = (one.name for one in graph.get_inputs())
        differ = total = 0
        for wave, codes in zip(waves, self.encode(waves), strict=True):
            mel = s3.log_mel(torch.from_numpy(self.heard(wave)))[None, :, : s3.WINDOW].numpy()
            (theirs,) = graph.run(None, {feats: mel, length: np.array([mel.shape[2]], np.int32)})
            ours, theirs = codes[:, 0], np.asarray(theirs).reshape(-1)
            if len(codes) > len(theirs):
                ours = ours[: len(theirs) - s3.SEAM]  # the first window of a longer clip
            differ += int((ours != theirs[: len(ours)]).sum())
            total += len(ours)
        return differ / total


def shortened(codes: np.ndarray) -> np.ndarray:
    """Codes (T, 1) without the sixth and later ones of a run of silent codes."""
    kept, run = [], 0
    for silent in np.isin(codes[:, 0], SILENT):
        run = run + 1 if silent else 0
        kept.append(run <= SILENCE)
    return codes[np.array(kept, bool)]


def flow_of(found: Shapes, version: int, where: Path) -> Flow:
    try:
        return flow_like(found, version)
    except KeyError as error:
        raise UserError(f"{where}: no tensor {error}, so no flow of CosyVoice {version}; take the file of its release") from None


def hift_of(found: Shapes, version: int, where: Path) -> HiFT:
    try:
        return hift_like(found, framed_sines(UPSAMPLING[version]), causal=version == 3)
    except KeyError as error:
        raise UserError(f"{where}: no tensor {error}, so no vocoder of CosyVoice {version}; take the file of its release") from None


def session(path: Path) -> onnxruntime.InferenceSession:
    """An ONNX graph, ready to run on one thread. UserError for a file that is none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    if not path.is_file():
        raise UserError(f"{path}: not there; copy or download the whole release")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise UserError(f"{path}: not an ONNX graph that runs ({type(error).__name__}); download it again") from None

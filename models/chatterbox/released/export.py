"""A fine-tune as a folder that upstream's own inference loads: `ChatterboxTTS.from_local(folder).generate(text)`.

The folder is the release's with T3 merged, and the speaker as its built-in voice (resemble-ai/chatterbox, src/chatterbox/tts.py,
`from_local` and `Conditionals`). Upstream puts more into its conditionals when it speaks; these are as they were before.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from models.chatterbox.config import PROMPT, S3GEN, WEIGHTS
from models.chatterbox.network import EMOTION, T3
from models.chatterbox.released.codec import VOICE_ENCODER, ReleasedCodec
from models.parts.errors import UserError
from models.parts.family import Voice

CONDITIONALS = "conds.pt"
COPIED = (S3GEN, VOICE_ENCODER, "tokenizer.json")


def write(base: Path, network: T3, voice: Voice, folder: Path) -> None:
    """Write the merged `network` and `voice`, the one that it was judged with, to `folder` (made if absent).

    `base`: the release that it was tuned on. UserError for one that lacks a file and for a voice that has no reference,
    before anything is written.
    """
    for name in COPIED:
        if not (base / name).is_file():
            raise UserError(f"{base / name}: not there; run `make weights MODEL=chatterbox` again")
    if not voice.prompts or not len(voice.reference):
        raise UserError(f"voice {voice.speaker}: without a reference recording, so upstream's {CONDITIONALS} can't be written; run the tokenise stage again")
    spoken = conditionals(ReleasedCodec(base), voice)
    folder.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(base / name, folder / name)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    torch.save(spoken, folder / CONDITIONALS)


@torch.no_grad()
def conditionals(codec: ReleasedCodec, voice: Voice) -> dict[str, dict[str, torch.Tensor | None]]:
    """What upstream keeps of a speaker: for T3 a vector of length 1 and a prompt, for the decoder a prompt, its mel and a vector."""
    heard = codec.conditions(voice.reference, voice)
    prompt = torch.from_numpy(voice.prompts[0].codes[:PROMPT, 0]).long()
    spoken = {
        "speaker_emb": F.normalize(torch.from_numpy(voice.speaker_embedding)[None]), "clap_emb": None,
        "cond_prompt_speech_tokens": prompt[None], "cond_prompt_speech_emb": None, "emotion_adv": torch.full((1, 1, 1), EMOTION),
    }  # fmt: skip
    decoded = {
        "prompt_token": heard.codes[None].cpu(), "prompt_token_len": torch.tensor([len(heard.codes)]),
        "prompt_feat": heard.mel[None].cpu(), "prompt_feat_len": None, "embedding": heard.vector[None].cpu(),
    }  # fmt: skip
    return {"t3": spoken, "gen": decoded}

"""Several processes that train one network: each with a copy of it, on GPUs one a card, started by Accelerate.

The batches of an optimizer step are shared out, and none is cut: the terms of a loss are means over labels of their own (speech,
text, values), and noise is drawn for a whole batch, so that nothing but whole batches adds up to the gradient that one process has.
Each process adds up the gradients of its batches, and all add up theirs: the same sum, to rounding, and so the same step for all.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn, TypeVar

import torch
from torch import distributed

from models.parts.errors import UserError
from models.parts.family import AdaptSettings, Family, Loss
from models.parts.precision import compute_device
from stages.common.checkpoints import ResumeState, save_adapter
from stages.common.parallel import die_with_parent, how_it_ended

LAST_WORDS = "TRAIN_LAST_WORDS"  # environment variable of a process that was started: the file where the first one that fails says why
Item = TypeVar("Item")
LossOf = Callable[[dict[str, torch.Tensor]], Loss]


class Alone:
    """The only process. `first`: is it the one that writes and reports? `loads_on`: where a network is loaded; None: where it computes."""

    count, first = 1, True
    loads_on: torch.device | None = None

    def share(self, items: Sequence[Item]) -> Iterable[Item]:
        """Those of `items` that are this process's work."""
        return items

    def merge(self, mine: list[Item], count: int) -> list[Item]:
        """What all processes made of their shares of `count` items, in the order of the items, for every process."""
        return mine

    def seed(self, *place: int) -> None:
        """What is drawn from here on depends on `place` alone, whichever process draws it; one process goes on where it is."""

    def prepare(self, family: Family, network: torch.nn.Module) -> LossOf:
        """Ready to be trained: the function that gives the loss of a batch."""
        return partial(family.loss, network)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a batch of this process's share."""
        loss.backward()

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Let every process have the sum of all gradients."""

    def state(self, path: Path) -> ResumeState:
        """Where a killed run goes on; every process reads it."""
        return ResumeState(path)

    def saves(self, due: bool = True) -> bool:
        """Is it for this process to save the state, where that is due?"""
        return due

    def save_checkpoint(self, folder: Path, family: Family, network: torch.nn.Module, settings: AdaptSettings) -> None:
        save_adapter(folder, family.adapter_state(network, settings))

    def others_end(self) -> None:
        """End every process but the first."""


class Rank(Alone):
    """One of several."""

    def __init__(self) -> None:
        from accelerate import PartialState  # seconds, which one process alone can do without

        self._state = PartialState(cpu=compute_device().type == "cpu")  # chooses the card, and gloo or NCCL
        self.count, self.first = self._state.num_processes, self._state.is_main_process

    def share(self, items: Sequence[Item]) -> Iterable[Item]:
        return items[self._state.process_index :: self.count]

    def merge(self, mine: list[Item], count: int) -> list[Item]:
        shares: list[Any] = [None] * self.count
        distributed.all_gather_object(shares, mine)
        return [shares[index % self.count][index // self.count] for index in range(count)]

    def seed(self, *place: int) -> None:
        torch.manual_seed(random.Random(repr(place)).getrandbits(63))

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        trained = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8, device=self._state.device)
        distributed.all_reduce(trained, distributed.ReduceOp.MAX)
        for parameter, somewhere in zip(parameters, trained.tolist(), strict=True):
            if somewhere:  # what no batch of the step used has no gradient in one process either, and AdamW leaves it alone
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                distributed.all_reduce(parameter.grad)

    def saves(self, due: bool = True) -> bool:
        return due and self.first

    def save_checkpoint(self, folder: Path, family: Family, network: torch.nn.Module, settings: AdaptSettings) -> None:
        if self.first:
            super().save_checkpoint(folder, family, network, settings)

    def others_end(self) -> None:
        distributed.destroy_process_group()
        if not self.first:
            os._exit(0)  # a thread of gloo that lets go of its last tensor while Python winds up aborts the process


def launch(module: str, argv: Sequence[str], count: int) -> None:
    """Run `python -m module argv` as `count` processes, to their end. UserError for what goes wrong in one of them, once, when all have ended."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if 0 < (cards := torch.cuda.device_count()) < count:
        raise UserError(f"params.yaml: train.processes: {count} of them need a GPU each, and {cards} can be seen; lower it, or look at CUDA_VISIBLE_DEVICES")
    logging.disable()  # the launcher's own words on failures, which are many
    options = ["--multi_gpu", "--num_machines=1", f"--num_processes={count}", "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]
    with TemporaryDirectory() as folder, patch_environment(**{LAST_WORDS: f"{folder}/words.json", "OMP_NUM_THREADS": "1"}):
        try:
            launch_command(launch_command_parser().parse_args([*options, "--module", module, *argv]))
        except SignalException as stop:  # when it has ended the others
            if stop.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + stop.sigval)
        except ChildFailedError as failure:
            explain(module, [one.exitcode for one in failure.failures.values()], Path(folder, "words.json"))


def explain(module: str, codes: Sequence[int], words: Path) -> NoReturn:
    """End with the reason why processes ended with `codes`: what the first one that failed wrote to `words`, if it could."""
    said = json.loads(words.read_text(encoding="utf-8")) if words.is_file() else None
    if said and said["user"]:
        raise UserError(said["text"])
    killed = [code for code in codes if code < 0 and code != -signal.SIGTERM]  # with SIGTERM the launcher ends the others
    if said and not killed:  # where one was killed, what another said of it is not the reason
        sys.exit(said["text"])
    how = how_it_ended((killed or codes)[0])
    raise UserError(f"a process of {module} {how}; if memory ran out, free some or lower train.processes or train.batch_frames")


def is_launched() -> bool:
    """Is this one of the processes that `launch` started?"""
    return LAST_WORDS in os.environ


@contextmanager
def rank(shard: bool) -> Iterator[Rank]:
    """This process as one of several, which hold the network together if `shard`. Only the first is heard; what goes wrong in any is
    left to `launch` to say."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches every process, and the launcher says so
    try:
        if shard:
            from stages.train.sharding import Shard  # FSDP, which takes a while to load

        one = Shard() if shard else Rank()
        if not one.first:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        yield one
    except Exception as error:
        words = {"user": isinstance(error, UserError), "text": str(error) if isinstance(error, UserError) else traceback.format_exc()}
        # The others fail too, for they wait for this one: the file is there by then, and theirs are not the reason.
        with suppress(FileExistsError), open(os.environ[LAST_WORDS], "x", encoding="utf-8") as file:
            json.dump(words, file)
        sys.stdout.flush()
        os._exit(1)  # at once: what is left of the group would wait for the others

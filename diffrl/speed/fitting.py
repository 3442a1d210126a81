"""Work cut into pieces that fit into memory, the largest of which is found by trying."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

import torch

from diffrl.errors import OutOfMemory

Done = TypeVar("Done")

HOLDERS: WeakSet[Any] = WeakSet()
"""What holds memory that it can do without: each has a `let_go`, called where memory ends, which
returns whether it held any."""

UNBOUNDED = sys.maxsize
"""More than there is of anything."""

SIGNS = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "MPS backend out of memory",
    "STATUS_ALLOC_FAILED",
    "_ALLOCATION_FAILED",  # cuDNN 9: of the host or of the device
    "when calling `cublasCreate",  # each thread has a handle of its own, which did not fit
    "unable to find an engine to execute this computation",  # cuDNN, where every try ended memory
)
"""What devices and their libraries say where memory ends, but for torch's own words for CUDA."""

ON_CPU = {"train.sample_batch": 16, "train.micro_batch": 8, "train.decode_batch": 16}
"""Sizes where a device does not say that its memory has ended, as a CPU never does."""


@dataclass
class Fitting:
    """How much is worked on at once: what was asked for, or what has turned out to fit.

    Args:
        setting: that says how much.
        size: of now; halved for good wherever memory ends.
        cuts: how often it was.
        fixed: whether it must stay, since other processes count on it.
        given: what the setting says; 0: what fits.
        advice: what takes less memory, for whom it would not even hold one.
    """

    setting: str
    size: int
    cuts: int = 0
    fixed: bool = False
    given: int = 0
    advice: str = (
        "--set speed.low_memory=on (without speed.graphs), --precision bf16 or a smaller model.size"
    )

    @classmethod
    def of(cls, setting: str, given: int, device: str, fixed: bool = False) -> Fitting:
        """Return the size that a setting gives, where 0 is what fits into a device's memory."""
        size = given or (ON_CPU[setting] if fixed or device == "cpu" else UNBOUNDED)
        return cls(setting, size, fixed=fixed, given=given)

    def may_repeat(self, size: int) -> bool:
        """Return whether an attempt of that size may be made again: in two, or beside less."""
        return not self.fixed and (size > 1 or bool(HOLDERS))

    def pieces(self, count: int) -> int:
        """Return how many pieces of the size of now there are in `count`."""
        return -(-count // self.size)

    def run(
        self,
        attempt: Callable[[int], Done],
        most: int,
        least: int = 1,
        undo: Callable[[], None] = lambda: None,
    ) -> Done:
        """Return what `attempt` gives, called with half as much wherever memory ended.

        Args:
            attempt: does a piece of work of at most that size.
            most: there is to do.
            least: that can be done at once.
            undo: is called before the next attempt.

        Raises:
            OutOfMemory: if not even the least fits, or it is fixed.
        """
        spared = False
        while True:
            size = max(least, min(self.size, most))
            try:
                return attempt(size)
            except RuntimeError as error:
                if not memory_ended(error):
                    raise
                told = self._advice(size, error)
                if self.fixed:
                    raise OutOfMemory(told) from None
            # Only here the error, and with it the frames that hold tensors, is gone.
            undo()
            held = [one.let_go() for one in list(HOLDERS)]
            give_back()
            if any(held) and not spared:  # perhaps the same fits beside less
                spared = True
                continue
            if size <= least:
                raise OutOfMemory(told)
            self.size = max(least, -(-size // 2))
            self.cuts += 1

    def over(self, count: int, attempt: Callable[[slice], Done], least: int = 1) -> Iterator[Done]:
        """Yield what `attempt` gives for one piece after the other, until `count` is reached."""
        start = 0
        while start < count:

            def piece(size: int, start: int = start) -> tuple[Done, int]:
                return attempt(slice(start, start + size)), size

            done, size = self.run(piece, count - start, least)
            yield done
            start += size

    def _advice(self, size: int, error: Exception) -> str:
        cause = " ".join(str(error).split())[:160]
        if self.fixed:
            return (
                f"memory ends with {self.setting} = {size}, which processes that split weights "
                f"cannot lower one by one; give less of it, or --set speed.low_memory=on ({cause})"
            )
        return f"memory ends even with {self.setting} = {size}; try {self.advice} ({cause})"


@dataclass(frozen=True)
class Pieces:
    """The sizes of the pieces in which a run samples, updates, and decodes."""

    sample: Fitting
    micro: Fitting
    decode: Fitting

    @classmethod
    def of(cls, sample: int, micro: int, decode: int, device: str, in_step: bool = False) -> Pieces:
        """Return the sizes that settings give; those of network calls are fixed `in_step`."""
        return cls(
            Fitting.of("train.sample_batch", sample, device, in_step),
            Fitting.of("train.micro_batch", micro, device, in_step),
            Fitting.of("train.decode_batch", decode, device),
        )

    @property
    def each(self) -> tuple[Fitting, Fitting, Fitting]:
        """All of them."""
        return self.sample, self.micro, self.decode

    def found(self) -> dict[str, float]:
        """Return the sizes that were cut, by setting, for a checkpoint, and what was given."""
        cut = [one for one in self.each if one.cuts]
        sizes = {one.setting: float(one.size) for one in cut}
        return sizes | {f"{one.setting} given": float(one.given) for one in cut}

    def go_on(self, found: Mapping[str, float]) -> None:
        """Take over what `found` returned before, where it is less and the setting is the same."""
        for one in self.each:
            same = found.get(f"{one.setting} given", one.given) == one.given
            if same and 1 <= found.get(one.setting, 0) < one.size:
                one.size, one.cuts = int(found[one.setting]), one.cuts + 1


IN_TRAINING = (
    "--set speed.low_memory=on (without speed.graphs), --precision bf16, fewer train.trajectories "
    "or a smaller model.size"
)
"""What takes less memory in the parts of an epoch that are not cut into pieces."""


@contextlib.contextmanager
def in_words(said: str, advice: str = IN_TRAINING) -> Iterator[None]:
    """Say in one line that memory ended in what cannot be done in smaller pieces.

    Args:
        said: that memory ended, and where.
        advice: what would take less.

    Raises:
        OutOfMemory: in place of what torch raises.
    """
    try:
        yield
    except RuntimeError as error:
        if not memory_ended(error):
            raise
        cause = " ".join(str(error).split())[:160]
        raise OutOfMemory(f"{said}; try {advice} ({cause})") from None


def memory_ended(error: BaseException) -> bool:
    """Return whether an error says that a GPU's memory has ended.

    What CUDA's libraries take beside torch's own memory, torch tells as other errors.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and any(sign in told for sign in SIGNS)


def give_back() -> None:
    """Let go of what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

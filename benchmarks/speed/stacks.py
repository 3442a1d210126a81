"""Where the main thread of this process is, asked again and again."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

Frame = tuple[str, str]
"""A function, and the file that it is in, from its package on."""

HIDDEN = (
    "torch/nn/modules/module.py",
    "torch/utils/_contextlib.py",
    "torch/_utils_internal.py",
    "contextlib.py",
    "pluggy/",
    "accelerate/utils/operations.py",
)
"""Files whose frames say nothing: calls that only pass a call on."""

NETWORKS = {
    "UNet": "diffusers/models/unets/unet_2d_condition.py",
    "VAE": "diffusers/models/autoencoders/",
    "text and reward": "transformers/models/clip/",
    "backward": "torch/autograd/__init__.py",
}
"""Where a stack has to go through to be in a network."""


class Sampler:
    """Counts stacks of the thread that enters it, at a steady rate.

    Args:
        rate: samples per second.
    """

    def __init__(self, rate: float = 100.0) -> None:
        self.stacks: Counter[tuple[Frame, ...]] = Counter()
        self._wait, self._done = 1 / rate, threading.Event()

    def __enter__(self) -> Sampler:
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(self._wait):
            frame = sys._current_frames().get(self._watched)
            self.stacks[tuple(reversed(list(frames(frame))))] += 1


def frames(frame: FrameType | None) -> Iterator[Frame]:
    """Yield a stack's frames, the innermost first, without those that only pass calls on."""
    while frame is not None:
        file = place(frame.f_code.co_filename)
        if not file.startswith(HIDDEN):
            yield (
                frame.f_code.co_qualname if sys.version_info >= (3, 11) else (frame.f_code.co_name),
                file,
            )
        frame = frame.f_back


def place(file: str) -> str:
    """Return a file's path from its package on."""
    parts = Path(file).parts
    for root in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if root in parts:
            return "/".join(parts[parts.index(root) + 1 :])
    known = [i for i, part in enumerate(parts) if part in ("diffrl", "plugins", "benchmarks")]
    return "/".join(parts[known[-1] :]) if known else parts[-1]


def network(stack: Sequence[Frame]) -> str:
    """Return the network that a stack is in, or nothing."""
    for name, file in NETWORKS.items():
        if any(place.startswith(file) for _, place in stack):
            return name
    return ""


def phase(stack: Sequence[Frame]) -> str:
    """Return the part of a run that a stack is in."""
    inside = {function.rpartition(".")[2] for function, file in stack if file.startswith("diffrl/")}
    for name, marks in {"evaluation": {"evaluated"}, "loading": {"build", "preflight"}}.items():
        if marks & inside:
            return name
    return "epochs" if "_one_epoch" in inside else "beginning and end"

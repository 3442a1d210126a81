"""Counts and times what an epoch asks of its networks, the same way for whoever asks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class Watch:
    """Seconds, calls and rows by name since `clear`.

    On a GPU, seconds are those between two marks in its queue, so that nothing waits for them. Each
    thread books for itself: what two of them do at the same time counts twice.

    Args:
        device: that computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._mine, self._books = threading.local(), threading.Lock()
        self.clear()
        register_optimizer_step_post_hook(self._stepped)

    def clear(self) -> None:
        """Begin anew."""
        self._marks: list[tuple[str, Any, Any]] = []
        self.calls: dict[str, int] = {}
        self.rows: dict[str, int] = {}
        self.optimizer_steps = 0

    def seconds(self) -> dict[str, float]:
        """Return the seconds under each name."""
        found: dict[str, float] = {}
        if self._cuda:
            torch.cuda.synchronize()
        for name, begin, end in self._marks:
            took = begin.elapsed_time(end) / 1000 if self._cuda else end - begin
            found[name] = found.get(name, 0.0) + took
        return found

    @contextmanager
    def timing(self, name: str, rows: int = 0) -> Iterator[None]:
        """Book what happens inside under a name; inside itself it counts once."""
        depth = self._mine.__dict__.setdefault("depth", Counter[str]())
        outermost = not depth[name]
        depth[name] += 1
        began = self._mark() if outermost else None
        try:
            yield
        finally:
            depth[name] -= 1
            if outermost:
                self._enter(name, rows, began)

    def _enter(self, name: str, rows: int, began: Any) -> None:
        ended = self._mark()
        with self._books:
            self._marks.append((name, began, ended))
            self.calls[name] = self.calls.get(name, 0) + 1
            self.rows[name] = self.rows.get(name, 0) + rows

    def around(self, name: str, call: Callable[..., Any], split: bool = False) -> Any:
        """Return a function that is watched; its first argument has the rows.

        Args:
            name: to book it under.
            call: the function.
            split: whether calls with and without gradient have names of their own, and those
                within `apart`.
        """

        def watched(*inputs: Any, **more: Any) -> Any:
            usual = "grad" if torch.is_grad_enabled() else "no-grad"
            own = f"{name}/{getattr(self._mine, 'kind', None) or usual}" if split else name
            with self.timing(own, len(inputs[0])):
                return call(*inputs, **more)

        return watched

    def count(self, owner: Any, attribute: str, name: str) -> None:
        """Count the rows that a function of an object is given, by the kinds of split calls."""
        call = getattr(owner, attribute)

        def counted(*inputs: Any) -> Any:
            usual = "grad" if torch.is_grad_enabled() else "no-grad"
            own = f"{name}/{getattr(self._mine, 'kind', None) or usual}"
            with self._books:
                self.rows[own] = self.rows.get(own, 0) + inputs[0].shape[:-3].numel()
            return call(*inputs)

        setattr(owner, attribute, counted)

    @contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Book split calls inside as a kind of their own."""
        self._mine.kind = kind
        try:
            yield
        finally:
            self._mine.kind = None

    def swap(self, owner: Any, attribute: str, name: str, split: bool = False) -> None:
        """Watch a function that an object holds."""
        setattr(owner, attribute, self.around(name, getattr(owner, attribute), split))

    def backward(self) -> None:
        """Watch every backward pass of this process."""
        inner = torch.autograd.backward

        def watched(*inputs: Any, **more: Any) -> Any:
            with self.timing("backward"):
                return inner(*inputs, **more)

        torch.autograd.backward = watched

    def network(self, module: nn.Module, name: str) -> None:
        """Watch the parts of a network that is called part by part; pictures are its rows."""

        def before(_: Any, inputs: Any, kept: Any) -> None:
            pixels = kept.get("pixel_values", inputs[0] if inputs else None)
            is_picture = isinstance(pixels, torch.Tensor) and pixels.ndim == 4
            at = self.timing(name, len(pixels) if is_picture else 0)
            at.__enter__()
            self._mine.__dict__.setdefault("open", []).append(at)

        def after(*_: Any) -> None:
            self._mine.open.pop().__exit__(None, None, None)

        for part in module.children():
            part.register_forward_pre_hook(before, with_kwargs=True)
            part.register_forward_hook(after)

    def _mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _stepped(self, *_: Any) -> None:
        self.optimizer_steps += 1


class Memory:
    """The most memory that an epoch holds, and how much that is above what the process began with.

    On a CPU it is resident memory, whose peak Linux forgets when it is told to; on a GPU what torch
    allocated there. What a process frees after an epoch it may keep: so it is compared with the
    moment when the models were loaded, and not with the moment before the epoch. What a GPU
    reserves for torch is more: gaps, and the memory of recorded graphs.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._loaded = torch.cuda.memory_allocated() if self._cuda else status("VmRSS")

    def begin(self) -> None:
        """Forget earlier peaks."""
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return
        Path("/proc/self/clear_refs").write_text("5")

    def end(self) -> dict[str, int]:
        """Return bytes: the peak, and how much of it came after loading."""
        peak = torch.cuda.max_memory_allocated() if self._cuda else status("VmHWM")
        held = {"reserved": torch.cuda.max_memory_reserved()} if self._cuda else {}
        return {"peak": peak, "above": peak - self._loaded, **held}


def status(field: str) -> int:
    """Return a size that Linux keeps of this process, in bytes."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))

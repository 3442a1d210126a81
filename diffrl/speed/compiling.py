"""Compiling networks with torch.compile: few shapes, kept kernels, and time that is known."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from diffrl.errors import CompileFailed, one_line
from diffrl.speed.fitting import HOLDERS
from diffrl.tensors import Tensor

GRAPHS = {"reduce-overhead", "max-autotune"}
"""Modes with CUDA graphs, whose outputs the next call writes over."""

AS_IN_UPDATES = ContextVar("AS_IN_UPDATES", default=False)
"""Whether a call without gradient is filled up as those with gradient are."""

VARIANTS = 64
"""How many versions of one network may be compiled: shapes, with and without gradient, sets of
weights. Beyond, torch would run it uncompiled without a word."""


def compile_problems(mode: str, device: str) -> list[str]:
    """Return what keeps networks from being compiled for a device, one line each."""
    if mode == "off":
        return []
    lacks = [] if shutil.which(os.environ.get("CXX", "g++")) else ["a C++ compiler (g++)"]
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        lacks.append("Python's headers (python3-dev)")
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        lacks.append("triton (pip install triton)")
    return [f"speed.compile = {mode!r}: needs {', '.join(lacks)}"] if lacks else []


def compile_forward(network: Any, mode: str, name: str) -> None:
    """Let a network's forward pass be compiled when it is first called.

    The module stays the same object, with the same names of its weights. So everything that calls
    it calls the compiled version: accelerate's wrapping, adapters, and `functional_call` with other
    weights.

    Args:
        network: whose first argument has one row per sample, and whose rows do not touch.
        mode: of torch.compile.
        name: in messages.
    """
    keep_kernels()
    compiled = torch.compile(type(network).forward, options=options(mode), dynamic=False)

    def call(*given: Any, **more: Any) -> Any:
        allow_variants()
        return compiled(*given, **more)

    network.forward = MethodType(steady(call, mode, name), network)


def allow_variants() -> None:
    """Raise how many versions of a network torch compiles; newer ones count for each thread."""
    from torch._dynamo import config

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    if getattr(config, limit) < VARIANTS:
        setattr(config, limit, VARIANTS)


def options(mode: str) -> dict[str, Any]:
    """Return the options of a mode of torch.compile, with those that keep the log-prob gap small.

    In half precision a fused kernel rounds less often than the operations that it is made of. With
    and without gradient other operations are fused, so that log-probs would be others in training
    than in sampling, by twenty times a clip range of 1e-4 (measured, in bf16 on a CPU). So kernels
    round where the operations do.
    """
    from torch._inductor import config, list_mode_options

    own = {"emulate_precision_casts": True} if hasattr(config, "emulate_precision_casts") else {}
    return {**list_mode_options(mode), **own}


def keep_kernels() -> Path:
    """Keep compiled kernels in the user's own cache folder, for the next run; return it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    usual = str(home / "diffrl" / "kernels")
    folder = Path(os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", usual))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    return folder


@contextlib.contextmanager
def sized_as_in_updates() -> Iterator[None]:
    """Fill batches up as calls with gradient do, so that a call without one is rounded as they."""
    before = AS_IN_UPDATES.set(True)
    try:
        yield
    finally:
        AS_IN_UPDATES.reset(before)


class Sizes:
    """The sizes of batches that a network was called with, with and without gradient."""

    def __init__(self) -> None:
        self._known: dict[bool, set[int]] = {True: set(), False: set()}
        HOLDERS.add(self)

    def let_go(self) -> bool:
        """Forget all sizes, which hold no memory by themselves."""
        for one in self._known.values():
            one.clear()
        return False

    def keep(self, size: int, gradient: bool) -> None:
        """Remember a size that a call has worked with."""
        self._known[gradient].add(size)

    def of(self, rows: int, gradient: bool) -> int:
        """Return the size that a batch is filled up to."""
        known = tuple(self._known[gradient])  # which another thread may forget meanwhile
        return min((s for s in known if rows <= s <= 2 * rows), default=rows)


def steady(compiled: Callable[..., Any], mode: str, name: str) -> Callable[..., Any]:
    """Return a forward pass that has few shapes: uneven batches are filled up with their first row.

    A batch takes the smallest size that was compiled before if that is at most twice its own.
    Otherwise its own size is compiled. Where memory ends, sizes are forgotten: a half is a half.
    """
    from torch._dynamo.exc import TorchDynamoException

    sizes = Sizes()

    def forward(self: Any, x: Tensor, *args: Any, **options: Any) -> Any:
        rows, gradient = len(x), torch.is_grad_enabled()
        size = sizes.of(rows, gradient or AS_IN_UPDATES.get())
        given = [_filled(one, rows, size) for one in (x, *args)]
        options = {key: _filled(one, rows, size) for key, one in options.items()}
        if mode in GRAPHS and gradient:
            own_gradients(weight for weight in self.parameters() if weight.requires_grad)
        try:
            out = compiled(self, *given, **options)
        except TorchDynamoException as error:
            raise CompileFailed(_advice(mode, name, error)) from error
        sizes.keep(size, gradient or AS_IN_UPDATES.get())
        return _cut(out, rows, mode in GRAPHS)

    return forward


def own_gradients(weights: Iterable[Tensor]) -> None:
    """Give weights memory of their own for gradients, or autograd would keep a recording's."""
    lacking = [weight for weight in weights if weight.grad is None]
    made = [torch.empty_like(weight) for weight in lacking]
    if made:
        torch._foreach_zero_(made)
    for weight, gradient in zip(lacking, made, strict=True):  # only now, should memory end before
        weight.grad = gradient


def seconds_compiling() -> float:
    """Return the seconds that this process has spent compiling."""
    utils = sys.modules.get("torch._dynamo.utils")
    return 0.0 if utils is None else float(utils.calculate_time_spent().get("total_wall_time", 0.0))


def _filled(value: Any, rows: int, size: int) -> Any:
    """Return a batch with copies of its first row up to a size; anything else as it is."""
    if size == rows or not torch.is_tensor(value) or not value.ndim or len(value) != rows:
        return value
    return torch.cat([value, value[:1].expand(size - rows, *value.shape[1:])])


def _cut(out: Any, rows: int, copy: bool) -> Any:
    """Return the first rows of a tensor, or of each one of a tuple or of an output of diffusers."""
    if torch.is_tensor(out):
        own = out[:rows]
        return own.clone() if copy else own
    if isinstance(out, tuple):
        return tuple(_cut(one, rows, copy) for one in out)
    return type(out)(**{key: _cut(one, rows, copy) for key, one in out.items()})


def _advice(mode: str, name: str, error: Exception) -> str:
    cause = one_line(str(error).strip().partition("\n")[0])[:200]
    return f"speed.compile = {mode!r}: cannot compile the {name} ({cause}); --set speed.compile=off"

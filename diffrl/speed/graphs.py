"""Networks recorded as CUDA graphs: the same kernels, started all at once instead of one by one."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from diffrl.speed.compiling import steady
from diffrl.speed.fitting import give_back
from diffrl.tensors import Tensor

Call = Callable[..., Tensor]
Record = Callable[[Any, Callable[..., Any], bool, tuple[Tensor, ...]], Call]

TRIES = 3
"""Calls before a recording, in which libraries choose their kernels and take their memory."""


def graph_problems(wanted: bool, device: str, beside: dict[str, bool]) -> list[str]:
    """Return what keeps a network from being recorded, one line each.

    Args:
        wanted: whether it is asked for.
        device: that computes.
        beside: other means by their setting, which graphs do not go together with.
    """
    if not wanted:
        return []
    found = [
        f"speed.graphs = True: cannot be together with {one}" for one, on in beside.items() if on
    ]
    if not device.startswith("cuda"):
        found.append(f"speed.graphs = True: CUDA graphs need a GPU of NVIDIA, not {device!r}")
    return found


def graph_forward(network: Any) -> None:
    """Let a network's forward pass be recorded when it is first called with a size of batch."""
    plain = type(network).forward
    network.forward = MethodType(steady(graphed(plain, record), "graphs", "UNet"), network)


def graphed(plain: Callable[..., Any], recorded: Record) -> Callable[..., Any]:
    """Return a forward pass that replays what was recorded of `plain`, where that is the same.

    A recording reads and writes fixed memory: the network's own weights, and one set of
    activations. With other weights in their place, with further inputs, and before the backward
    pass of the last call with gradient, `plain` itself is called.
    """
    known: dict[Any, Call] = {}
    waiting: set[Any] = set()
    own: list[tuple[Any, str, Tensor]] = []

    def forward(self: Any, *given: Any, **options: Any) -> Any:
        if not own:
            own.extend(trained(self))
        gradient = torch.is_grad_enabled()
        key = (gradient, *(_kind(one) for one in given))
        others = any(getattr(part, name) is not weight for part, name, weight in own[:1])
        if others or key in waiting or None in key or options != {"return_dict": False}:
            return plain(self, *given, **options)
        if gradient:
            _own_gradients(weight for _, _, weight in own)
        if key not in known:
            known[key] = recorded(self, plain, gradient, given)
            give_back()  # what was tried before the recording is not needed any more
        out = known[key](*given).clone()
        if gradient:
            waiting.add(key)
            out.register_hook(lambda _: waiting.discard(key))
        return (out,)

    return forward


def record(
    network: Any, plain: Callable[..., Any], gradient: bool, given: tuple[Tensor, ...]
) -> Call:
    """Record a call on the GPU; return what replays it on other inputs of the same kind."""
    static = tuple(one.detach().clone() for one in given)
    half = torch.get_autocast_dtype("cuda")
    on = torch.is_autocast_enabled("cuda")
    with torch.autocast("cuda", half, enabled=on, cache_enabled=False):  # casts are recorded, too
        if gradient:
            _expect_other_streams()
            made: Any = torch.cuda.make_graphed_callables(
                Bare(network, plain), static, num_warmup_iters=TRIES, allow_unused_input=True
            )
            return made
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(TRIES):
                plain(network, *static, return_dict=False)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = plain(network, *static, return_dict=False)[0]

    def replay(*inputs: Tensor) -> Tensor:
        for mine, one in zip(static, inputs, strict=True):
            mine.copy_(one)
        graph.replay()
        return out

    return replay


def trained(network: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    """Return what is trained of a network: the part that has it, its name there, and the weight."""
    return [
        (part, name, weight)
        for part in network.modules()
        for name, weight in part.named_parameters(recurse=False)
        if weight.requires_grad
    ]


class Bare(nn.Module):
    """A network by its forward pass alone, without hooks, as torch records it."""

    def __init__(self, network: nn.Module, plain: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self._plain = network, plain

    def forward(self, *given: Tensor) -> Tensor:
        """Return the network's output."""
        return self._plain(self.network, *given, return_dict=False)[0]


def _kind(value: Any) -> Any:
    """Return what a recording depends on of an input; None where it cannot be an input."""
    if not torch.is_tensor(value) or value.requires_grad:
        return None
    return tuple(value.shape), value.dtype


def _expect_other_streams() -> None:
    """Keep torch from warning that gradients are recorded beside the stream that adds them up."""
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)


def _own_gradients(weights: Any) -> None:
    """Give weights memory of their own for gradients, or autograd would keep the recording's."""
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)

"""Networks recorded as CUDA graphs: the same kernels, started all at once instead of one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn

from diffrl.speed.compiling import own_gradients, steady
from diffrl.speed.fitting import HOLDERS, give_back
from diffrl.tensors import Tensor

Call = Callable[..., Tensor]
Record = Callable[[Any, Callable[..., Any], bool, tuple[Tensor, ...], tuple[str, ...]], Call]

TRIES = 3
"""Calls before a recording, in which libraries choose their kernels and take their memory."""


def graph_problems(wanted: bool, device: str, processes: int, beside: dict[str, bool]) -> list[str]:
    """Return what keeps a network from being recorded, one line each.

    Args:
        wanted: whether it is asked for.
        device: that computes.
        processes: of the run.
        beside: other means by their setting, which graphs do not go together with.
    """
    if not wanted:
        return []
    found = [f"speed.graphs = True: cannot be together with {one}" for one in beside if beside[one]]
    if not device.startswith("cuda"):
        found.append(f"speed.graphs = True: CUDA graphs need a GPU of NVIDIA, not {device!r}")
    if processes > 1:
        found.append(
            f"speed.graphs = True: not with {processes} processes, whose exchange runs beside the "
            f"recording; that has not been tried"
        )
    return found


def graph_forward(network: Any) -> None:
    """Let a network's forward pass be recorded when it is first called with a size of batch.

    Its adapters have to be attached before.
    """
    made = Graphed(network, type(network).forward, record)
    network.forward = MethodType(steady(made, "graphs", "UNet"), network)


class Graphed:
    """A forward pass that replays what was recorded of `plain`, where that is the same.

    A recording reads and writes fixed memory: the network's own weights, and one set of
    activations. With other weights in their place, with adapters off or merged, in a copy of the
    network, and before the backward pass of the last call with gradient, `plain` itself is called.

    Args:
        network: that is recorded.
        plain: its forward pass.
        recorded: makes a recording.
    """

    def __init__(self, network: Any, plain: Callable[..., Any], recorded: Record) -> None:
        self._home, self._plain, self._recorded = network, plain, recorded
        self._known: dict[Any, Call] = {}
        self._waiting: set[Any] = set()
        self._own = trained(network)
        self._adapters = [m for m in network.modules() if hasattr(m, "lora_A")][:1]
        HOLDERS.add(self)

    def let_go(self) -> bool:
        """Forget all recordings, whose memory is theirs alone; return whether there were any."""
        held = bool(self._known)
        self._known.clear()
        self._waiting.clear()
        return held

    def __call__(self, network: Any, *given: Any, **options: Any) -> Any:
        """Return what the network's forward pass gives."""
        gradient = torch.is_grad_enabled()
        names = tuple(sorted(name for name in options if torch.is_tensor(options[name])))
        rest = {name: value for name, value in options.items() if name not in names}
        inputs = (*given, *(options[name] for name in names))
        key = (gradient, names, *(_kind(one) for one in inputs))
        usual = network is self._home and self._as_it_was() and rest == {"return_dict": False}
        if not usual or None in key or key in self._waiting:
            return self._plain(network, *given, **options)
        if gradient:
            own_gradients(weight for _, _, weight in self._own)
        call = self._known.get(key)
        if call is None:
            call = self._recorded(network, self._plain, gradient, inputs, names)
            self._known[key] = call
            give_back()  # what was tried before the recording is not needed any more
        out = call(*inputs).clone()
        if gradient:
            self._waiting.add(key)
            out.register_hook(lambda _: self._waiting.discard(key))
        return (out,)

    def _as_it_was(self) -> bool:
        """Return whether the network's own weights are in their places, and adapters beside."""
        swapped = any(getattr(part, name) is not weight for part, name, weight in self._own[:1])
        return not swapped and not any(m.disable_adapters or m.merged for m in self._adapters)


def record(
    network: Any,
    plain: Callable[..., Any],
    gradient: bool,
    inputs: tuple[Tensor, ...],
    names: tuple[str, ...],
) -> Call:
    """Record a call on the GPU; return what replays it on other inputs of the same kind.

    Args:
        network: that is called.
        plain: its forward pass.
        gradient: whether the backward pass is recorded, too.
        inputs: of the call; the last ones are those named.
        names: of these.
    """
    static = tuple(one.detach().clone() for one in inputs)
    bare = Bare(network, plain, names)
    half = torch.get_autocast_dtype("cuda")
    on = torch.is_autocast_enabled("cuda")
    autocast = torch.autocast("cuda", half, enabled=on, cache_enabled=False)
    with on_this_stream(), autocast:  # casts are recorded, too
        if gradient:
            _expect_other_streams()
            made: Any = torch.cuda.make_graphed_callables(
                bare, static, num_warmup_iters=TRIES, allow_unused_input=True
            )
            return made
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(TRIES):
                bare(*static)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = bare(*static)

    def replay(*inputs: Tensor) -> Tensor:
        for mine, one in zip(static, inputs, strict=True):
            mine.copy_(one)
        graph.replay()
        return out

    return replay


@contextlib.contextmanager
def on_this_stream() -> Iterator[None]:
    """Come back to the current stream, also from a recording that fails in its end.

    torch leaves the thread on the recording's stream then. Other threads, which score, would no
    longer see in order what is computed.
    """
    home = torch.cuda.current_stream()
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(home)
        raise


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

    def __init__(
        self, network: nn.Module, plain: Callable[..., Any], names: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.network, self._plain, self._names = network, plain, names

    def forward(self, *given: Tensor) -> Tensor:
        """Return the network's output."""
        first = len(given) - len(self._names)
        named = dict(zip(self._names, given[first:], strict=True))
        return self._plain(self.network, *given[:first], **named, return_dict=False)[0]


def _kind(value: Any) -> Any:
    """Return what a recording depends on of an input; None where it cannot be an input."""
    if not torch.is_tensor(value) or value.requires_grad:
        return None
    return tuple(value.shape), value.dtype


def _expect_other_streams() -> None:
    """Keep torch from warning that gradients are recorded beside the stream that adds them up."""
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

"""What processes tell each other, counted in bytes."""

from __future__ import annotations

import contextlib
import pickle
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from diffrl.errors import ProcessLost, one_line
from diffrl.speed.fitting import memory_ended
from diffrl.speed.sharding import BUCKET
from diffrl.tensors import Float, Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator


BACKENDS = re.compile(r"\b(gloo|nccl|ucc|processgroup\w*)\b", re.IGNORECASE)
"""What errors of collective operations name, which not all torches give a class of their own."""


class Exchange:
    """Collective operations of a run's processes. With a single process there is nothing to do.

    All of them raise `ProcessLost` where another process has ended.

    Attributes:
        handed: by purpose, the bytes that this process has handed to collective operations.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._device = accelerator.device
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self.handed: Counter[str] = Counter()

    def objects(self, items: Sequence[Any], purpose: str = "words") -> list[Any]:
        """Return the items of all processes, in order of rank."""
        if self.count == 1:
            return list(items)
        self.handed[purpose] += len(pickle.dumps(list(items)))
        gathered: list[list[Any]] = [[] for _ in range(self.count)]
        with hearing():
            distributed.all_gather_object(gathered, list(items))
        return [item for own in gathered for item in own]

    def rows(self, own: Tensor, counts: Sequence[int], purpose: str = "rewards") -> Tensor:
        """Return the rows of all processes, in order of rank, on this process's device.

        Args:
            own: this process's rows.
            counts: how many rows each process has.
            purpose: under which bytes are counted.
        """
        if self.count == 1:
            return own
        padded = own.new_zeros(max(counts), *own.shape[1:]).to(self._device)
        padded[: len(own)] = own
        every = [torch.empty_like(padded) for _ in counts]
        self.handed[purpose] += padded.nbytes
        with hearing():
            distributed.all_gather(every, padded)
        return torch.cat([one[:n] for one, n in zip(every, counts, strict=True)])

    def gradients(self, parameters: Sequence[nn.Parameter], flag: int = 0) -> int:
        """Add up the gradients of all processes, in place; return the sum of their flags.

        A process that had nothing to do has no gradient, and adds none. Gradients that no process
        has stay away.
        """
        if self.count == 1:
            return flag
        here = [float(p.grad is not None) for p in parameters]
        *there, flags = self.flags([*here, float(flag)])
        needed = [p for p, some in zip(parameters, there, strict=True) if some]
        for bucket in buckets(needed):
            flat = torch.cat([_gradient(p).flatten() for p in bucket])
            self._add(flat, "gradients")
            parts = flat.split([p.numel() for p in bucket])
            for parameter, summed in zip(bucket, parts, strict=True):
                gradient = torch.empty_like(parameter)  # laid out as the weight: kernels ask for it
                parameter.grad = gradient.copy_(summed.view_as(parameter))
        return int(flags)

    def flags(self, own: Sequence[float], purpose: str = "flags") -> list[float]:
        """Return the sum of all processes' numbers, one by one; bytes count under a purpose."""
        if self.count == 1:
            return list(own)
        told = torch.tensor(own, device=self._device)
        self._add(told, purpose)
        return told.tolist()

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.count > 1:
            with hearing():
                distributed.barrier()

    def same(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            with torch.no_grad(), hearing():
                for parameter in parameters:
                    self.handed["weights"] += parameter.nbytes
                    distributed.broadcast(parameter, 0)

    def _add(self, values: Float[Tensor, "n"], purpose: str) -> None:
        self.handed[purpose] += values.nbytes
        with hearing():
            distributed.all_reduce(values)


@contextlib.contextmanager
def hearing(backend_alone: bool = False) -> Iterator[None]:
    """Say in one line that another process is gone.

    Args:
        backend_alone: whether other code runs in here, too, whose own errors are left alone.

    Raises:
        ProcessLost: in place of what the backend raises.
    """
    try:
        yield
    except RuntimeError as error:
        told = isinstance(error, distributed.DistError) or BACKENDS.search(str(error))
        if memory_ended(error) or (backend_alone and not told):
            raise
        cause = re.sub(r"^\[[^]]*\] ", "", one_line(str(error))).partition(". ")[0][:200]
        raise ProcessLost(f"another process of this run does not answer: {cause}") from error


def buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield parameters in turn, as many at once as fit into a bucket."""
    held, size = list[nn.Parameter](), 0
    for parameter in parameters:
        if held and size + parameter.numel() > BUCKET:
            yield held
            held, size = [], 0
        held.append(parameter)
        size += parameter.numel()
    if held:
        yield held


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

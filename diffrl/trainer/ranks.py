"""All that concerns several processes, precision and devices, through accelerate.

No stage sees any of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffrl.errors import Interrupted, SettingsError
from diffrl.stages import AdvantageEstimator
from diffrl.tensors import Tensor
from diffrl.types import Advantages, Memory, Prompts, Rewards

if TYPE_CHECKING:
    from accelerate import Accelerator


class Ranks:
    """The processes of a run: prepared network, optimizer, and exchange between ranks."""

    def __init__(self, accelerator: Accelerator, max_grad_norm: float) -> None:
        self.accelerator, self._max_norm = accelerator, max_grad_norm
        self._network: Any = None
        self._optimizer: Any = None
        self.asked: Callable[[], int] = lambda: 0
        """Returns the signal that asks this process to stop, or 0."""
        self.bad_steps = 0
        """Optimizer steps in a row whose gradient was not finite."""

    def prepare(self, network: Any, optimizer: torch.optim.Optimizer) -> Any:
        """Return the network as the forward pass uses it, in the run's precision."""
        self._network, self._optimizer = self.accelerator.prepare(network, optimizer)
        return self._network

    @property
    def optimizer(self) -> Any:
        """The prepared optimizer."""
        return self._optimizer

    def set_learning_rate(self, lr: float) -> None:
        """Use a learning rate from the next optimizer step on."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.accelerator.is_main_process

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.accelerator.num_processes

    def accumulating(self, commit: bool) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which gradients are exchanged only if the optimizer then steps."""
        if commit:
            return contextlib.nullcontext()
        return self.accelerator.no_sync(self._network)

    def backward(self, loss: Tensor) -> None:
        """Add to the gradients."""
        self.accelerator.backward(loss)

    def commit(self) -> Tensor:
        """Clip the gradient norm, step, forget the gradients; return the norm before clipping.

        Where the norm is not finite, weights and optimizer stay as they are. In half precision the
        scaler sees to that, and lowers its scale.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        norm = torch.as_tensor(self.accelerator.clip_grad_norm_(parameters, self._max_norm))
        good = bool(norm.isfinite())
        if good or self.accelerator.scaler is not None:
            self._optimizer.step()
        self.bad_steps = 0 if good else self.bad_steps + 1
        self._optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def check_in(self) -> None:
        """Stop, in all processes, if one of them was asked to.

        Raises:
            Interrupted: in every process.
        """
        number = self.asked()
        if self.count > 1:
            mine = torch.tensor([number], device=self.accelerator.device)
            every = self.accelerator.gather(mine)
            assert isinstance(every, torch.Tensor)
            number = int(every.max())
        if number:
            raise Interrupted(number)

    def advantages(
        self, estimator: AdvantageEstimator, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> tuple[Advantages, Memory]:
        """Estimate advantages from all processes' rewards; return those of this process's rows."""
        if self.count == 1:
            return estimator(rewards, prompts, memory)
        rank, n = self.accelerator.process_index, len(prompts)
        together = Prompts(
            text=tuple(self.everyones(list(prompts.text))),
            group=torch.tensor(self.everyones([(rank << 32) + g for g in prompts.group.tolist()])),
            cond=prompts.cond.new_zeros(n * self.count, 0),
        )
        value = self.accelerator.gather(rewards.value)
        assert isinstance(value, torch.Tensor)
        out, memory = estimator(Rewards(value), together, memory)
        own = slice(rank * n, (rank + 1) * n)
        mine = out.value[own].to(rewards.value.device)
        return Advantages(mine, rewards.grad, rewards.each), memory

    def finish(self) -> None:
        """Close the trackers; the processes stay connected for another run."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def everyones(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of all processes, in order of rank."""
        if self.count == 1:
            return list(items)
        from accelerate.utils import gather_object

        return list(gather_object(list(items)))


def accelerator(device: str, precision: str) -> Accelerator:
    """Return a fresh Accelerator for a device and a precision; `log_into` gives it a folder.

    Raises:
        SettingsError: if there is no such device, or it cannot compute in that precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import ProjectConfiguration

    kind, _, index = device.partition(":")
    if kind == "cuda" and index:
        torch.cuda.set_device(int(index))
    if not (PartialState._shared_state and PartialState().num_processes > 1):
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        made = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            log_with="tensorboard",
            project_config=ProjectConfiguration(logging_dir="."),  # until `log_into`
        )
    except ValueError as error:
        raise SettingsError([f"model.precision = {precision!r}: {error}"]) from None
    if device != "auto" and made.device.type != kind:
        raise SettingsError([f"model.device = {device!r}: this machine offers {made.device.type}"])
    return made


def agreed(folder: Path, made: Accelerator) -> Path:
    """Return the main process's folder, in every process."""
    if made.num_processes == 1:
        return folder
    from accelerate.utils import broadcast_object_list

    return Path(broadcast_object_list([str(folder)])[0])


def log_into(folder: Path, made: Accelerator) -> None:
    """Let trackers write into a run's folder."""
    made.project_configuration.project_dir = str(folder)
    made.project_configuration.logging_dir = str(folder)


def check_device(device: str, precision: str) -> list[str]:
    """Return what is wrong with a device and a precision, one line each."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _mps()}
    kind = device.split(":")[0]
    if kind != "auto" and kind not in have:
        return [f"model.device = {device!r}: expected auto, cpu, cuda or mps"]
    index = device.partition(":")[2]
    if (kind != "auto" and not have[kind]) or (index and int(index) >= torch.cuda.device_count()):
        offers = ", ".join(k for k, there in have.items() if there)
        return [f"model.device = {device!r}: this machine has no such device; it offers {offers}"]
    on_cpu = kind == "cpu" or (kind == "auto" and not have["cuda"] and not have["mps"])
    if on_cpu and precision == "fp16":
        return ["model.precision = 'fp16': needs a GPU; on the CPU take --precision bf16 or fp32"]
    return []


def _mps() -> bool:
    return bool(getattr(torch.backends, "mps", None)) and torch.backends.mps.is_available()

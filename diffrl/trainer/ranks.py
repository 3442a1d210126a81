"""All that concerns several processes, precision and devices, through accelerate.

No stage sees any of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffrl.errors import Interrupted, ProcessLost, SettingsError, one_line
from diffrl.settings.checks import DEVICES
from diffrl.speed.sharding import is_split, together
from diffrl.tensors import Tensor
from diffrl.trainer.exchange import Exchange
from diffrl.trainer.shares import Share
from diffrl.trainer.skipping import Streak, step
from diffrl.types import Rewards

if TYPE_CHECKING:
    from accelerate import Accelerator


PATIENCE = timedelta(hours=2)
"""How long processes wait for one that evaluates, or whose reward is slow; that one lives, they
hear of it by its `heartbeat`."""


class Ranks:
    """The processes of a run: prepared network, optimizer, and exchange between ranks."""

    def __init__(self, accelerator: Accelerator, max_grad_norm: float) -> None:
        self.accelerator, self._max_norm = accelerator, max_grad_norm
        self._optimizer: Any = None
        self.asked: Callable[[], int] = lambda: 0
        """Returns the signal that asks this process to stop, or 0."""
        self.exchange = Exchange(accelerator)
        self._flags = 0
        self.bad_steps = Streak()
        """Optimizer steps in a row whose gradient was not finite."""
        self.steps = 0
        """Optimizer steps of this process."""
        self.in_step = False
        """Whether weights are split, so that processes must call the network equally often."""

    def prepare(self, network: Any, optimizer: torch.optim.Optimizer) -> Any:
        """Return the network as the forward pass uses it, in the run's precision.

        Gradients stay in each process until `commit` adds them up. Their exchange is a small share
        of an epoch, and processes may make different numbers of backward passes.
        """
        prepared = self.accelerator.prepare_model(network, evaluation_mode=True)
        self._optimizer = self.accelerator.prepare_optimizer(optimizer)
        if (scaler := self.accelerator.scaler) is not None:
            # It finds its scale at the first loss, and this process may have none to begin with.
            scaler.scale(torch.zeros((), device=self.accelerator.device))
        self.in_step = is_split(network)
        if not self.in_step:
            self.exchange.same(self._parameters())
        return prepared

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

    @property
    def number(self) -> int:
        """The number of this process among them, from 0 on."""
        return int(self.accelerator.process_index)

    def lost(self, error: Exception) -> ProcessLost:
        """Return what a process raises that the others cannot wait for."""
        return ProcessLost(f"process {self.number} of {self.count} is lost: {error}")

    def backward(self, loss: Tensor) -> None:
        """Add to this process's gradients."""
        self.accelerator.backward(loss)

    def commit(self) -> Tensor:
        """Add up all gradients, clip, step, forget them; return their norm before clipping.

        Where the norm is not finite, weights and optimizer stay as they are. In half precision the
        scaler sees to that, and lowers its scale.
        """
        parameters = self._parameters()
        if self.in_step:  # their parts of the gradients are added up already
            self._flags = self.exchange.flags([float(self.asked())])[0]
        else:
            self._flags = self.exchange.gradients(parameters, self.asked())
        clipped = self.accelerator.clip_grad_norm_(parameters, self._max_norm)
        norm = torch.as_tensor(together(clipped))
        good = norm.isfinite()
        self.steps += 1  # before: one that fails in the middle has changed weights, too
        step(self._optimizer, good, self.accelerator.scaler is not None, self.in_step)
        self.bad_steps.add(good)
        self._optimizer.zero_grad(set_to_none=True)
        return norm.detach()

    def check_in(self) -> None:
        """Stop, in all processes, if one of them was asked to before the last `commit`.

        Raises:
            Interrupted: in every process.
        """
        if self._flags:
            self.heed()

    def heed(self) -> None:
        """Stop, in all processes, if one of them was asked to.

        Raises:
            Interrupted: in every process.
        """
        own = self.asked()
        if self.exchange.flags([float(own)], "signals")[0]:
            raise Interrupted(max(self.everyones([own])))

    def together(self, rewards: Rewards, share: Share) -> Rewards:
        """Return the rewards of all processes' rows, in the order of their groups."""
        if self.count == 1:
            return rewards
        counts, order = [len(own) * share.rows for own in share.owned], share.order
        back = order.argsort().to(rewards.value.device)

        def every(own: Tensor | None) -> Tensor | None:
            return None if own is None else self.exchange.rows(own, counts)[back]

        value = self.exchange.rows(rewards.value, counts)[back]
        return Rewards(value, every(rewards.grad), every(rewards.each))

    def finish(self) -> list[str]:
        """Close the trackers, and return what went wrong; the processes stay connected."""
        failed = []
        for tracker in self.accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:  # a service may be gone
                cause = one_line(f"{type(error).__name__}: {error}")[:200]
                failed.append(f"the tracker {tracker.name!r} could not be closed ({cause})")
        return failed

    def wait(self) -> None:
        """Return when all processes are here."""
        self.exchange.wait()

    def everyones(self, items: Sequence[Any]) -> list[Any]:
        """Return the items of all processes, in order of rank."""
        return self.exchange.objects(items)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]


def accelerator(device: str, precision: str) -> Accelerator:
    """Return a fresh Accelerator for a device and a precision; `log_into` gives it a folder.

    Raises:
        SettingsError: if there is no such device, or it cannot compute in that precision.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import (
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
        ProjectConfiguration,
    )

    kind, _, index = device.partition(":")
    if kind == "cuda" and index:
        torch.cuda.set_device(int(index))
    if not (PartialState._shared_state and PartialState().num_processes > 1):
        AcceleratorState._reset_state(reset_partial_state=True)
    try:
        made = Accelerator(
            cpu=device == "cpu",
            mixed_precision="no" if precision == "fp32" else precision,
            # Minibatches have their weights already, whatever a launcher's environment says.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            log_with="tensorboard",
            project_config=ProjectConfiguration(logging_dir="."),  # until `log_into`
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise SettingsError([f"model.precision = {precision!r}: {error}"]) from None
    if device != "auto" and made.device.type != kind:
        raise SettingsError([f"model.device = {device!r}: this machine offers {made.device.type}"])
    return made


def log_into(folder: Path, made: Accelerator) -> None:
    """Let trackers write into a run's folder."""
    made.project_configuration.project_dir = str(folder)
    made.project_configuration.logging_dir = str(folder)


def check_device(device: str, precision: str) -> list[str]:
    """Return what is wrong with a device and a precision, one line each."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _mps()}
    kind, _, index = device.partition(":")
    if not re.fullmatch(DEVICES, device):
        return [f"model.device = {device!r}: expected auto, cpu, cuda, cuda:<number> or mps"]
    if (kind != "auto" and not have[kind]) or (index and int(index) >= torch.cuda.device_count()):
        offers = ", ".join(k for k, there in have.items() if there)
        return [f"model.device = {device!r}: this machine has no such device; it offers {offers}"]
    on_cpu = kind == "cpu" or (kind == "auto" and not have["cuda"] and not have["mps"])
    if on_cpu and precision == "fp16":
        return ["model.precision = 'fp16': needs a GPU; on the CPU take --precision bf16 or fp32"]
    return []


def device_here(wanted: str) -> str:
    """Return a device's name, of `auto` that of the best that this machine has."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "mps" if _mps() else "cpu"


def _mps() -> bool:
    return bool(getattr(torch.backends, "mps", None)) and torch.backends.mps.is_available()

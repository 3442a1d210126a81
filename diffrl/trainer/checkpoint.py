"""Everything a run needs to go on as if nothing had happened, written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from diffrl.adapters import save_weights
from diffrl.errors import ResumeError, one_line
from diffrl.folder import METRICS, NOTICES, SETTINGS
from diffrl.policy import UNetPolicy
from diffrl.shelf import offer, place, put, seal
from diffrl.speed.sharding import alike, whole
from diffrl.tensors import Generator
from diffrl.trainer.exchange import hearing
from diffrl.trainer.packing import as_os_error, read_packed, write_packed
from diffrl.trainer.randomness import random_state, restore_random
from diffrl.trainer.ranks import Ranks
from diffrl.types import Memory

STATE, FORMAT = "trainer_state", 3
ASKED = ("betas", "eps", "weight_decay", "fused")
"""Of the optimizer, what settings decide and a checkpoint does not: they may have changed."""

BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError, OverflowError)
"""What comes of values that are not what a trainer wrote."""


@dataclass
class Position:
    """How far a run has come.

    Args:
        epoch: that is finished.
        memory: the advantage estimator's.
        progress: samples and seconds, and metrics of an epoch still to be evaluated.
        watch: what the watchdog and the numerics remember, by name.
    """

    epoch: int = 0
    memory: Memory = field(default_factory=Memory)
    progress: dict[str, float] = field(default_factory=dict)
    watch: dict[str, float] = field(default_factory=dict)


def save(
    folder: Path, unet: Any, policy: UNetPolicy, ranks: Ranks, rng: Generator, at: Position
) -> Path:
    """Write `checkpoints/<epoch>/`: weights for diffusers, and the trainer's state beside them.

    Raises:
        OSError: if it cannot be written; what was there before is as it was.
    """
    random_states = ranks.everyones([random_state(rng)])
    with hearing(backend_alone=True):
        learnt = whole(trained(policy, ranks), ranks.is_main)
    target = place(folder, at.epoch)
    if not ranks.is_main:
        return target
    partial = target.with_name(f".{at.epoch}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_weights(unet, partial, learnt["trained"])
        write_packed({**learnt, **told(at), "random": random_states}, partial / STATE)
        for name in (SETTINGS, METRICS, NOTICES):
            if (folder / name).is_file():
                shutil.copy2(folder / name, partial / name)
        seal(partial)
        put(partial, target)
    except SafetensorError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise as_os_error(error, partial) from None
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)  # leaves room where a disk is full
        raise
    return target


def trained(policy: UNetPolicy, ranks: Ranks) -> dict[str, Any]:
    """Return weights and optimizer as values; they are not copies."""
    scaler = ranks.accelerator.scaler
    return {
        "trained": {n: p.detach() for n, p in policy.trained.items()},
        "old": policy.old(),
        "optimizer": ranks.optimizer.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def restore_trained(state: Mapping[str, Any], policy: UNetPolicy, ranks: Ranks) -> None:
    """Set weights and optimizer to what `trained` returned."""
    with torch.no_grad():
        for name, parameter in policy.trained.items():
            parameter.copy_(alike(state["trained"][name], parameter))
    policy.regather()
    policy.set_old(state["old"])
    ranks.optimizer.load_state_dict(_placed(state["optimizer"], ranks))
    if state["scaler"] is not None and ranks.accelerator.scaler is not None:
        ranks.accelerator.scaler.load_state_dict(state["scaler"])


def _placed(state: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Return an optimizer's state with what is asked for, each tensor as the weight it is of."""
    weights = [p for group in ranks.optimizer.param_groups for p in group["params"]]
    own = {
        number: {n: alike(v, weights[number]) if torch.is_tensor(v) and v.dim() else v
                 for n, v in held.items()}
        for number, held in state["state"].items()
    }  # fmt: skip
    asked = [{k: group[k] for k in ASKED} for group in ranks.optimizer.param_groups]
    groups = [{**a, **b} for a, b in zip(state["param_groups"], asked, strict=True)]
    return {**state, "state": own, "param_groups": groups}


def told(at: Position) -> dict[str, Any]:
    """Return a position as values."""
    return {
        "format": FORMAT,
        "epoch": at.epoch,
        "memory": [[prompt, steps, h] for (prompt, steps), h in at.memory.history.items()],
        "progress": at.progress,
        "watch": at.watch,
    }


def read(path: Path) -> dict[str, Any]:
    """Return the state that a checkpoint holds.

    Raises:
        ResumeError: if it cannot be read, naming another checkpoint that can.
    """
    try:
        state = read_packed(path / STATE)
    except (OSError, ValueError) as error:
        cause = one_line(str(error))[:160]
        run = path.parents[1]
        raise ResumeError(
            f"the checkpoint {path} cannot be read: {cause}; {offer(run, path)}"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ResumeError(f"the checkpoint {path} was written by another version of diffrl")
    return state


def load(path: Path, policy: UNetPolicy, ranks: Ranks, rng: Generator) -> Position:
    """Restore weights, optimizer and randomness; return how far the run had come.

    The number of processes may differ from when it was written. What decides the run is the same in
    all of them; the global generators, of which only code outside diffrl draws, go round in turn.

    Raises:
        ResumeError: if the checkpoint cannot be read or belongs to another model.
    """
    state = read(path)
    try:
        if _shapes(state["trained"]) != _shapes(policy.trained):
            raise ResumeError(f"the checkpoint {path} was written for another model or adapter")
        restore_trained(state, policy, ranks)
        random = state["random"]
        restore_random(random[ranks.accelerator.process_index % len(random)], rng)
        return _position(state)
    except BROKEN as error:
        cause = one_line(f"{type(error).__name__}: {error}")[:160]
        raise ResumeError(
            f"the checkpoint {path} holds something else than a run's state: {cause}; "
            f"{offer(path.parents[1], path)}"
        ) from None


def _position(state: Mapping[str, Any]) -> Position:
    history = {(str(prompt), int(steps)): h for prompt, steps, h in state["memory"]}
    if not all(torch.is_tensor(h) for h in history.values()):
        raise ValueError("memory holds something else than tensors")
    memory = Memory(history)
    numbers = {part: _numbers(state[part]) for part in ("progress", "watch")}
    return Position(int(state["epoch"]), memory, numbers["progress"], numbers["watch"])


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in found.items()}


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}

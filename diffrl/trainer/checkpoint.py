"""Everything a run needs to go on as if nothing had happened, written whole or not at all."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch

from diffrl.adapters import save_weights
from diffrl.errors import ResumeError
from diffrl.policy import UNetPolicy
from diffrl.tensors import Generator
from diffrl.trainer.ranks import Ranks
from diffrl.types import Memory

STATE, FORMAT = "trainer_state.pt", 1


def save(
    folder: Path,
    epoch: int,
    unet: Any,
    policy: UNetPolicy,
    ranks: Ranks,
    rng: Generator,
    memory: Memory,
    progress: dict[str, float],
    settings: Path,
) -> Path:
    """Write `checkpoints/<epoch>/`: weights for diffusers, and the trainer's state beside them."""
    random_states = ranks.everyones([random_state(rng, policy.noise_rng)])
    target = place(folder, epoch)
    if not ranks.is_main:
        return target
    partial = target.with_name(f".{epoch}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_weights(unet, partial)
    state = {
        "format": FORMAT,
        "epoch": epoch,
        "trained": {n: p.detach().cpu() for n, p in policy.trained.items()},
        "old": {n: p.cpu() for n, p in policy.old().items()},
        "optimizer": ranks.optimizer.state_dict(),
        "scaler": None
        if ranks.accelerator.scaler is None
        else ranks.accelerator.scaler.state_dict(),
        "memory": [(prompt, steps, h.cpu()) for (prompt, steps), h in memory.history.items()],
        "random": random_states,
        "progress": progress,
    }
    torch.save(state, partial / STATE)
    shutil.copy2(settings, partial / settings.name)
    for file in (f for f in partial.rglob("*") if f.is_file()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    return target


def load(
    path: Path, policy: UNetPolicy, ranks: Ranks, rng: Generator
) -> tuple[int, Memory, dict[str, float]]:
    """Restore weights, optimizer and randomness; return the epoch, memory and progress.

    Raises:
        ResumeError: if the checkpoint cannot be read or belongs to another model.
    """
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())[:160]
        raise ResumeError(f"the checkpoint {path} cannot be read: {cause}") from None
    if state.get("format") != FORMAT or _shapes(state["trained"]) != _shapes(policy.trained):
        raise ResumeError(f"the checkpoint {path} was written for another model or adapter")
    if len(state["random"]) != ranks.count:
        raise ResumeError(
            f"the checkpoint {path} was written by {len(state['random'])} process(es); "
            f"this run has {ranks.count}"
        )
    with torch.no_grad():
        for name, parameter in policy.trained.items():
            parameter.copy_(state["trained"][name])
    policy.set_old(state["old"])
    ranks.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"] is not None and ranks.accelerator.scaler is not None:
        ranks.accelerator.scaler.load_state_dict(state["scaler"])
    restore_random(state["random"][ranks.accelerator.process_index], rng, policy.noise_rng)
    memory = Memory({(prompt, steps): h for prompt, steps, h in state["memory"]})
    return state["epoch"], memory, state["progress"]


def _shapes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def place(folder: Path, epoch: int) -> Path:
    """Return where the checkpoint of an epoch lies."""
    return folder / "checkpoints" / str(epoch)


def newest(folder: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, if it has one yet."""
    found = [p for p in (folder / "checkpoints").glob("*") if p.name.isdigit() and p.is_dir()]
    return max(found, key=lambda p: int(p.name), default=None)


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; 0 keeps all."""
    found = [p for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    for old in sorted(found, key=lambda p: int(p.name))[: -keep or None] if keep else []:
        shutil.rmtree(old)


def random_state(rng: Generator, noise_rng: Generator) -> dict[str, Any]:
    """Return the state of every source of randomness in this process, in plain values."""
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    version, inner, gauss = random.getstate()
    return {
        "rng": rng.get_state(),
        "noise_rng": noise_rng.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": [s.cpu() for s in torch.cuda.get_rng_state_all()],
        "numpy": [str(name), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(inner), gauss],
    }


def restore_random(state: dict[str, Any], rng: Generator, noise_rng: Generator) -> None:
    """Set every source of randomness to a saved state."""
    rng.set_state(state["rng"])
    noise_rng.set_state(state["noise_rng"])
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, numpy.uint32), position, has_gauss, cached))
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))

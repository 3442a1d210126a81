"""The state of every source of randomness in a process, in plain values."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch

from diffrl.tensors import Generator


def random_state(rng: Generator) -> dict[str, Any]:
    """Return the state of every source of randomness in this process."""
    name, keys, position, has_gauss, cached = numpy.random.get_state()
    version, inner, gauss = random.getstate()
    return {
        "rng": rng.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": [s.cpu() for s in torch.cuda.get_rng_state_all()],
        "numpy": [str(name), [int(k) for k in keys], int(position), int(has_gauss), float(cached)],
        "python": [version, list(inner), gauss],
    }


def restore_random(state: dict[str, Any], rng: Generator) -> None:
    """Set every source of randomness to a saved state."""
    rng.set_state(state["rng"])
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((name, numpy.array(keys, numpy.uint32), position, has_gauss, cached))
    version, inner, gauss = state["python"]
    random.setstate((version, tuple(inner), gauss))

"""How much memory a process has held, and how much there is."""

from __future__ import annotations

import sys

import torch

from diffrl import machine
from diffrl.speed.compiling import GRAPHS
from diffrl.trainer.session import Session


def recorded(session: Session) -> bool:
    """Return whether networks are recorded as CUDA graphs."""
    return session.settings.speed.graphs or session.settings.speed.compile in GRAPHS


def peak(device: torch.device, graphs: bool = False) -> int:
    """Return the most bytes that this process has held so far; `graphs`: in recordings, too.

    What a CUDA graph keeps is reserved, and allocated to no tensor.
    """
    if device.type == "cuda":
        held = torch.cuda.max_memory_reserved if graphs else torch.cuda.max_memory_allocated
        return int(held(device))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def total_memory(device: torch.device) -> int:
    """Return how many bytes a device has; for a CPU, those that this process may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return machine.memory()

"""How long threads that wait for each other keep their cores from other programs."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = "10000"
"""Turns of GNU OpenMP's waiting loop, whose own number is 300,000.

Fewer make a run that is alone slower. Source: `benchmarks/side_by_side.py`.
"""


def yield_soon(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads sleep that have waited for a moment, unless the environment says how they wait.

    By itself GNU OpenMP, which PyTorch computes with on Linux, lets them turn in a loop. Where
    another program computes on the same cores, threads then wait, turning, for one that has no
    core to come on with. It reads this once, when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPINS)

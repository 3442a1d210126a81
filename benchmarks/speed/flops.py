"""Floating-point operations of the networks, counted, and what this machine reaches at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from benchmarks.speed.published import Published

ROUNDS = 60
SIDES = {"cpu": 1024, "cuda": 8192}
"""Products that are tried, and their side: short ones, so that some of them are not disturbed."""


def matmul_rate(device: torch.device, precision: str) -> float:
    """Return operations per second of a large square matrix product, the best of many."""
    from diffrl.speed.formats import DTYPES

    side, best = SIDES[device.type], 0.0
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    for _ in range(ROUNDS):
        _wait(device)
        began = time.perf_counter()
        a @ b
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - began))
    return best


def counted(run: Published) -> dict[str, float]:
    """Return operations per row: of the UNet without and with its backward pass, VAE, reward.

    They are counted on the published way's network, whose attention is made of plain products.
    """
    rows, text = 2, ["a cat", "a dog"]
    cond = run._encode(text)
    unet, side = run.pipeline.unet, run.sample(cond, 1, None).latents.shape[-1]
    shape = (rows, unet.config.in_channels, side, side)
    x = torch.randn(shape, device=run.device, dtype=unet.dtype)
    t = torch.full((rows,), 500, device=run.device)

    def forward() -> Any:
        with torch.autocast(run.device.type, torch.float16, enabled=run.device.type == "cuda"):
            return unet(x, t, cond, return_dict=False)[0].float()

    pictures = run._decode(x)
    with torch.no_grad():
        plain = {
            "unet/no-grad": count(forward),
            "vae": count(lambda: run._decode(x)),
            "text": count(lambda: run._encode(text)),
            "reward": count(lambda: run.scorer(pictures, text)),
        }
    trained = count(lambda: forward().sum().backward())
    unet.zero_grad()
    again = {"unet/recomputed": plain["unet/no-grad"]}  # forward passes, too
    every = {**plain, **again, "unet/grad": trained}
    return {name: value / rows for name, value in every.items()}


def count(call: Callable[[], Any]) -> int:
    """Return the operations of a call, its backward pass included where it has one."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def of_epoch(flops: Mapping[str, float], rows: Mapping[str, int]) -> float:
    """Return the operations of an epoch: those of a row times the rows that were asked for.

    Log-probs that are computed anew are no work of the algorithm, and do not count.
    """
    return sum(flops[name] * rows.get(name, 0) for name in flops if name != "unet/recomputed")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()

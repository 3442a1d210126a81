"""Denoising chains under way, each with the picture that its state stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from diffrl.emoji.diffusion import hop
from diffrl.emoji.pairing import SETTLED, Pairing
from diffrl.emoji.training import DEVICE
from diffrl.emoji.world import Scene

SHAPE = (4, 16, 16)


@dataclass
class Chains:
    """States `x`, their `target` latents, the target's `scene` and its `text`.

    `place` counts the steps taken of `length`; `eta` is DDIM's.
    """

    x: Tensor
    target: Tensor
    text: Tensor
    scene: np.ndarray
    length: np.ndarray
    place: np.ndarray
    eta: Tensor

    @property
    def times(self) -> Tensor:
        """Integer time of each chain, [b]."""
        now = np.rint(1000 - self.place * 1000 / self.length).astype(int) - 1
        return torch.from_numpy(now).to(DEVICE)


def start(pairing: Pairing, scenes: Sequence[Scene], text: Tensor, length: np.ndarray,
          eta: np.ndarray, noise: torch.Generator | None = None) -> Chains:  # fmt: skip
    """Chains at pure noise, one per scene."""
    x = torch.randn((len(scenes), *SHAPE), generator=noise).to(DEVICE)
    z = pairing.read(x, torch.full((len(x),), 999, device=DEVICE))
    which = np.empty(len(scenes), dtype=object)
    which[:] = scenes
    target, zeros = pairing.encoded(scenes, z), np.zeros(len(scenes), int)
    return Chains(x, target, text, which, length, zeros, torch.from_numpy(eta).to(DEVICE))


def walk(chains: Chains, x0: Tensor, pairing: Pairing, noise: torch.Generator | None = None,
         ) -> None:  # fmt: skip
    """Moves every chain one DDIM step on, in place.

    Until its paper is settled, it is aimed at what it now looks like.
    """
    times = chains.times
    later = times - torch.from_numpy(np.maximum(1, 1000 // chains.length)).to(DEVICE)
    fresh = torch.randn(chains.x.shape, generator=noise).to(DEVICE)
    chains.x = hop(chains.x, x0, times, later, chains.eta, fresh)
    chains.place = chains.place + 1
    unsettled = (later >= SETTLED).nonzero()[:, 0]
    if len(unsettled):
        z = pairing.read(chains.x[unsettled], later[unsettled])
        chains.target[unsettled] = pairing.encoded(list(chains.scene[unsettled.cpu().numpy()]), z)


def renew(chains: Chains, fresh: Callable[[int], Chains]) -> None:
    """Replaces the chains that are at their end, in place."""
    done = np.flatnonzero(chains.place >= chains.length)
    if len(done):
        new = fresh(len(done))
        for field in fields(Chains):
            getattr(chains, field.name)[done] = getattr(new, field.name)

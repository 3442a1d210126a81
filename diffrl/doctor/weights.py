"""Leaving weights as they were, and moving them so that there is something to see."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from diffrl.doctor.rehearsal import Rehearsal, apart, predictions
from diffrl.trainer.checkpoint import restore_trained, trained
from diffrl.trainer.randomness import random_state, restore_random
from diffrl.trainer.session import Session

EFFECT = 0.2
"""By how much a perturbation moves predictions, at least, in their standard deviations."""

ROUNDING = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 5e-2}
"""Difference of predictions that rounding explains, in their standard deviations."""


@contextlib.contextmanager
def kept(session: Session) -> Iterator[None]:
    """Put weights, optimizer, gradients and randomness back in the end."""
    policy, ranks = session.policy, session.ranks
    before = copy.deepcopy(trained(policy, ranks))
    trains = {p: p.requires_grad for p in parameters(session).values()}
    random = random_state(session.rng)
    try:
        yield
    finally:
        restore_trained(before, policy, ranks)
        for parameter, wanted in trains.items():
            parameter.requires_grad_(wanted)
        forget_gradients(session)
        session.judge.drain()
        restore_random(random, session.rng)


def parameters(session: Session) -> dict[str, nn.Parameter]:
    """Return all weights of the pipeline by name; those of the UNet have the policy's names."""
    pipeline: Any = session.pipeline
    named = dict(pipeline.unet.named_parameters())
    for part in ("vae", "text_encoder"):
        own = getattr(pipeline, part).named_parameters()
        named |= {f"{part}.{name}": p for name, p in own}
    return named


def forget_gradients(session: Session) -> None:
    """Set every gradient to none."""
    for parameter in parameters(session).values():
        parameter.grad = None


def perturb(session: Session, rehearsal: Rehearsal, seed: int = 0) -> float:
    """Add noise to the trained weights until predictions differ visibly; return by how much.

    LoRA's B starts at zero: without noise, adapters would do nothing and A would get no gradient.
    The noise is the same in every process.
    """
    before, rng = predictions(session, rehearsal), torch.Generator().manual_seed(seed)
    full, strength, moved = session.settings.adapter.kind == "full", 0.01, 0.0
    while moved < EFFECT and strength < 4:
        with torch.no_grad():
            for parameter in session.policy.trained.values():
                noise = torch.randn(parameter.shape, generator=rng).to(parameter)
                size = float(parameter.abs().mean()) if full else 1.0
                parameter.add_(noise, alpha=strength * size)
        moved, strength = apart(predictions(session, rehearsal), before), 2 * strength
    return moved

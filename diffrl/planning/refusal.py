"""Keeps `diffrl train` from beginning what cannot fit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from diffrl.builtin.models import check_model
from diffrl.builtin.references import local
from diffrl.checksums import split
from diffrl.errors import CheckpointMissing, DiffrlError, DoesNotFit
from diffrl.planning.advice import KNOBS, smaller, suggestions
from diffrl.planning.devices import GIB, present
from diffrl.planning.estimate import Estimate, sized
from diffrl.planning.networks import file_bytes
from diffrl.planning.words import refusal, verdict
from diffrl.settings import Settings

TINY, SIDE, PIXELS, ROLLOUT, ROOM = 64 * 2**20, 128, 2**20, GIB, 8 * GIB
"""A model below that many bytes, with pictures, batches and rollouts below these, fits into that
memory."""

CONDITION = 2**15
"""Bytes of a prompt's condition, at the most."""


def refuse_what_cannot_fit(settings: Settings, prompts: Sequence[str]) -> None:
    """Plan a run for the device that it would use, before any weights load.

    Where the sizes of the model are not known, nothing is refused. Nothing is measured here, so
    that what a plan finds to fit by a probe is never refused: calls are held to need no more than
    their tensors.

    Raises:
        DoesNotFit: if it needs clearly more memory than there is, naming settings that fit.
    """
    if not _is_known(settings.model.ref):
        return
    device = present(settings.model.device)
    if device.memory >= ROOM and is_tiny(settings):
        return
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    estimate = Estimate(settings, prompts, device, processes, beside, least=True)
    try:
        plan = estimate.plan()
    except CheckpointMissing:
        return
    if plan.hopeless and not finds_its_size(settings, estimate):
        advised = plan.suggesting(suggestions(replace(estimate, least=False)))
        lines = [*refusal(advised), "to begin all the same: --anyway"]
        raise DoesNotFit(lines, f"this run {verdict(plan)}")


def _is_known(ref: str) -> bool:
    """Return whether a model is of the kind that is planned: a plugin may open others."""
    try:
        check_model(ref)
    except DiffrlError:
        return False
    return True


def finds_its_size(settings: Settings, estimate: Estimate) -> bool:
    """Return whether a run fits once it has halved the batches that it is told to try out.

    It notices on a GPU alone that memory ends.
    """
    found = None if estimate.device.kind == "cpu" else smaller(estimate)
    tried = {f"train.{knob}" for knob in KNOBS.values() if not getattr(settings.train, knob)}
    return found is not None and {one.partition("=")[0] for one in found[1]} <= tried


def is_tiny(settings: Settings) -> bool:
    """Return whether a run is far too small for any memory to be short."""
    folder, train = local(split(settings.model.ref)[0]), sized(settings).train
    side, group = settings.model.size or SIDE, settings.recipe.sampler.group
    rows = max(train.sample_batch, train.micro_batch * max(2, group), train.decode_batch)
    small = side <= SIDE and rows * side**2 <= PIXELS and kept_bytes(settings, side) <= ROLLOUT
    return small and folder is not None and file_bytes(folder) <= TINY


def kept_bytes(settings: Settings, side: int) -> int:
    """Return about how many bytes an epoch's rollout takes, by the side of its pictures.

    A latent of four channels at a quarter of the side has as many bytes as a picture has pixels.
    """
    sampler = settings.recipe.sampler
    steps = max([sampler.steps, *sampler.lengths])
    return settings.train.trajectories * ((2 * steps + 1) * side**2 + CONDITION)

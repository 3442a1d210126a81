"""What a reader of a plan should know besides its figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from diffrl.settings import Settings
from diffrl.speed.fitting import ON_CPU

if TYPE_CHECKING:
    from diffrl.planning.estimate import Estimate

FEW = 16
"""Rows of a call from which on a GPU computes at the rate that is assumed."""


def tried(settings: Settings) -> dict[str, int]:
    """Return the sizes that are found by trying, with the one usual on a CPU for each."""
    usual = {name.partition(".")[2]: size for name, size in ON_CPU.items()}
    return {name: size for name, size in usual.items() if not getattr(settings.train, name)}


def notes(estimate: Estimate) -> Iterator[str]:
    """Yield the notes of an estimate's plan."""
    yield f"sizes of the model from {estimate.config.origin}"
    yield from estimate.told
    made, speed = estimate.counted.made, estimate.settings.speed
    if unknown := sorted(r.name for r in (*made.rewards, *made.watched) if not r.counted):
        yield f"not counted, but for their files: {', '.join(unknown)}"
    if speed.shard != "off" and estimate.processes > 1:
        yield "seconds are without those in which processes send each other weights"
    if speed.graphs:
        yield "what recorded calls hold is the sum of them, and was compared with no run"
    if speed.compile != "off":
        yield "what speed.compile takes of memory and seconds is not planned"
    yield from _of_a_gpu(estimate)


def _of_a_gpu(estimate: Estimate) -> Iterator[str]:
    device, settings = estimate.device, estimate.settings
    if device.kind == "cpu":
        return
    if settings.model.precision == "bf16" and not device.bf16:
        yield f"{device.name} has no units for bf16; take model.precision=fp16"
    if estimate.tried:
        sizes = ", ".join(f"train.{name} as {size}" for name, size in estimate.tried.items())
        yield f"what a run finds by trying is planned at the sizes of a CPU: {sizes}"
    if estimate.measured is not None:
        if settings.speed.graphs:
            yield "calls were measured one by one: recorded ones (speed.graphs) are faster"
        return
    rows = min(estimate.shape.sampled, estimate.shape.trained)
    if rows < FEW and not settings.speed.graphs and device.tflops is not None:
        yield f"seconds are a lower bound: with {rows} rows a call a GPU waits for its next kernel"
    yield "estimates for GPUs were checked on one H200 only; leave some room"

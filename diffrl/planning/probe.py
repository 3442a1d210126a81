"""A few seconds of a run's own networks, with random weights, where it would run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from diffrl.heap import reuse_freed_memory
from diffrl.planning.configs import PipelineConfig
from diffrl.planning.costs import Costs
from diffrl.planning.networks import Networks, networks
from diffrl.settings import Settings
from diffrl.speed.adding import fuse_adapters
from diffrl.speed.formats import channels_last, half_norms, multiply_in_tf32

SECONDS = 2.5
"""How long each kind of call is repeated, at least twice."""

SLACK = {"cpu": 2.0, "cuda": 1.1}
"""Bytes that allocator and kernels take for each that a call needs, where not measured."""

AFFORDED = {"cpu": 2e11, "cuda": 1e14}
"""FLOPs of one round of calls that a probe may take: a few seconds on slow devices."""


@dataclass(frozen=True)
class Shape:
    """The largest calls of a run.

    Args:
        sampled: rows of a forward pass without gradient.
        decoded: latents that are decoded and scored at once.
        trained: rows of graphs that wait for their backward pass.
    """

    sampled: int
    decoded: int
    trained: int


@dataclass(frozen=True)
class Probe:
    """What was measured.

    Args:
        shape: of the calls.
        forward: seconds of a forward pass.
        score: seconds of decoding and scoring.
        train: seconds of a forward pass with its backward pass.
        step: seconds of an optimizer step.
        started: bytes that the process held before.
        grown: bytes that it held more in the end, or at most on a GPU.
        threads: that computed on a CPU.
        cores: of that CPU.
    """

    shape: Shape
    forward: float
    score: float
    train: float
    step: float
    started: int
    grown: int
    threads: int = 1
    cores: int = 1


def worth_it(costs: Costs, shape: Shape, room: int | None = None) -> Shape | None:
    """Return the shape to probe, smaller where a round takes long; none where one row does.

    Args:
        costs: of its calls.
        shape: of the run's largest calls.
        room: bytes that they may take together with what allocators are assumed to take; none: any.
    """
    for share in (1, 2, 4, 8, 16, 32, 64, 128):
        rows = (shape.sampled, shape.decoded, shape.trained)
        cut = Shape(*(max(1, n // share) for n in rows))
        calls = (costs.forward(cut.sampled), costs.score(cut.decoded), costs.train(cut.trained))
        quick = sum(one.flops for one in calls) <= AFFORDED[costs.place]
        needed = SLACK[costs.place] * max(one.peak for one in calls)
        if quick and (room is None or needed <= room):
            return cut
        if share >= max(rows):
            break
    return None


def probe(settings: Settings, config: PipelineConfig, shape: Shape, device: str) -> Probe:
    """Return what calls of a shape take on a device.

    Args:
        settings: of the run.
        config: of its pipeline.
        shape: of the calls.
        device: cpu or cuda, perhaps with a number.
    """
    place = device.partition(":")[0]
    import_as_a_run_does()
    if place == "cpu":
        reuse_freed_memory()
    started = in_use(device)
    made = networks(settings, config, device, place)
    if settings.speed.channels_last:
        channels_last(made)
    if made.half_norms:
        half_norms(made.unet)
    if settings.speed.fuses_adapters:
        fuse_adapters(made.unet)
    multiply_in_tf32(settings.speed.tf32, place)
    if place == "cuda":  # what building them took is no part of a run
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    optimizer = torch.optim.AdamW(made.trained, lr=0.0, fused=True)
    cast = torch.autocast(place, made.dtype) if made.half else nullcontext()

    def forward() -> object:
        with torch.no_grad(), cast:
            return made.predict(shape.sampled)

    def train() -> None:
        with cast:
            out = made.predict(shape.trained)
        out.square().mean().backward()

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(made.trained, 1.0)
        optimizer.step()

    taken = {
        "forward": _seconds(forward, device),
        "score": _seconds(lambda: _score(made, shape.decoded), device),
        "train": _seconds(train, device),
        "step": _seconds(step, device),
    }
    grown, threads = in_use(device, most=True) - started, torch.get_num_threads()
    return Probe(shape, **taken, started=started, grown=grown, threads=threads, cores=cores())


def cores() -> int:
    """Return the cores of this machine's CPU, without those that share one."""
    import psutil

    return max(psutil.cpu_count(logical=False) or 1, torch.get_num_threads())


def import_as_a_run_does() -> None:
    """Import what a run has in memory besides its networks, so that it counts."""
    import accelerate  # noqa: F401
    import diffusers
    import peft  # noqa: F401
    import tensorboard  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    _ = diffusers.StableDiffusionPipeline


@torch.no_grad()
def _score(made: Networks, rows: int) -> None:
    images = made.decode(rows)
    for reward in made.rewards:
        reward(images)


def _seconds(work: Callable[[], object], device: str) -> float:
    """Return the median of a few seconds' repetitions, the first left out."""
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 2 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def in_use(device: str, most: bool = False) -> int:
    """Return the bytes that this process holds on a device; `most`: that it has held."""
    if device.startswith("cuda"):
        held: Any = torch.cuda.max_memory_reserved if most else torch.cuda.memory_reserved
        return int(held(device))
    import psutil

    return int(psutil.Process().memory_info().rss)

"""A process that runs one of the two ways, epoch by epoch, when it is told to.

Each way has a process of its own: the peak of its memory is then its own, and what diffrl asks of
the C library's heap does not speed the other up.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

WAYS = ("published", "diffrl")
CHECKPOINTS = 3


@dataclass(frozen=True)
class Job:
    """What a process is to run.

    Args:
        way: `published` or `diffrl`.
        size: name of a size.
        weights: folder of random weights.
        folder: of the run.
        sets: settings on top.
        workers: threads of the published way that score; none: what is faster on the device.
    """

    way: str
    size: str
    weights: Path
    folder: Path
    sets: tuple[str, ...] = ()
    workers: int | None = None


class Worker:
    """The other end: starts the process, and hands on what it answers."""

    def __init__(self, job: Job) -> None:
        here, there = get_context("spawn").Pipe()
        self._pipe = here
        self._process = get_context("spawn").Process(target=serve, args=(there, job), daemon=True)
        self._process.start()

    def ask(self, what: str, *more: Any) -> Any:
        """Return the answer to a question: the name of a method of `Way`, and its arguments.

        Raises:
            RuntimeError: with what was raised there.
        """
        self._pipe.send((what, more))
        good, answer = self._pipe.recv()
        if not good:
            raise RuntimeError(answer)
        return answer

    def stop(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(("stop", ()))
        self._process.join(30)


def serve(pipe: Connection, job: Job) -> None:
    """Answer questions until told to stop."""
    way = None
    while True:
        what, more = pipe.recv()
        if what == "stop":
            return
        try:
            way = way or Way(job)
            pipe.send((True, getattr(way, what)(*more)))
        except Exception:
            pipe.send((False, traceback.format_exc()))
            return


class Way:
    """One of the two ways, with the watch on what it does."""

    def __init__(self, job: Job) -> None:
        import torch

        from benchmarks.speed.sizes import SIZES, settings_of
        from benchmarks.speed.watch import Memory, Watch

        settings = settings_of(job.size, job.weights, list(job.sets))
        self.device = torch.device(SIZES[job.size].device)
        self.watch = Watch(self.device)
        self.watch.backward()
        job.folder.mkdir(parents=True, exist_ok=True)
        self._published = job.way == "published"
        own = settings.model.precision
        self._precision = SIZES[job.size].published if self._published else own
        self.run: Any = (
            self._theirs(settings, job) if self._published else self._ours(settings, job)
        )
        self._memory = Memory(self.device)

    def _ours(self, settings: Any, job: Job) -> Any:
        from benchmarks.speed.ours import Ours

        return Ours(settings, job.folder / "run", self.watch)

    def _theirs(self, settings: Any, job: Job) -> Any:
        from benchmarks.speed.published import WORKERS, Published
        from diffrl.trainer.preflight import preflight
        from diffrl.trainer.session import quiet

        quiet()
        prompts, _ = preflight(settings, None)
        beside = WORKERS if self.device.type == "cuda" else 0
        workers = beside if job.workers is None else job.workers
        own = self._precision
        return Published(settings, self.device, own, prompts, job.folder, self.watch, workers)

    def about(self) -> dict[str, Any]:
        """Return the precision, and what a matrix product reaches in it on this machine."""
        from benchmarks.speed.flops import matmul_rate

        rate = matmul_rate(self.device, self._precision)
        return {"precision": self._precision, "matmul_flops_per_second": rate}

    def flops(self) -> dict[str, float]:
        """Return the counted floating-point operations of the networks, per row."""
        from benchmarks.speed.flops import counted

        return counted(self.run)

    def epoch(self, number: int) -> dict[str, Any]:
        """Run an epoch, and return everything that was measured."""
        self.watch.clear()
        self._memory.begin()
        began = time.process_time()
        with self.watch.timing("epoch"):
            metrics = self.run.epoch(number)
        spent, memory = time.process_time() - began, self._memory.end()
        seconds = self.watch.seconds()
        phases = published_phases(seconds) if self._published else our_phases(seconds, metrics)
        return {
            "seconds": seconds["epoch"],
            "processor_seconds": spent,
            "phases": {**phases, "other": seconds["epoch"] - sum(phases.values())},
            "networks": {n: s for n, s in seconds.items() if not n.startswith(("phase", "epoch"))},
            "rows": {n: c for n, c in self.watch.rows.items() if c},
            "calls": {n: c for n, c in self.watch.calls.items() if not n.startswith("phase")},
            "optimizer_steps": self.watch.optimizer_steps,
            "memory": memory,
            "log_prob_gap": metrics["log_prob_gap/max"],
            "sampling_gap": metrics.get("log_prob_gap/sampling", metrics["log_prob_gap/max"]),
            "compiling": metrics.get("seconds/compile", 0.0),
        }

    def checkpoint(self) -> float:
        """Return the seconds that diffrl needs to write a checkpoint, of a few the middle one."""
        took = []
        for _ in range(CHECKPOINTS):
            began = time.perf_counter()
            self.run.save()
            took.append(time.perf_counter() - began)
        return sorted(took)[CHECKPOINTS // 2]


def published_phases(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by phase: decoding and, where threads do not score, scoring are in between."""
    inside = seconds.get("phase/scoring-inside", 0.0)
    return {
        "sampling": seconds["phase/sampling"] - seconds["vae"] - inside,
        "decoding": seconds["vae"],
        "scoring": seconds["phase/scoring"] + inside,
        "updating": seconds["phase/updating"],
        "saving": seconds["phase/saving"],
    }


def our_phases(seconds: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by phase, from diffrl's own metrics and what of scoring is decoding."""
    return {
        "sampling": metrics["seconds/sample"],
        "decoding": seconds["vae"],
        "scoring": metrics["seconds/score"] - seconds["vae"],
        "updating": metrics["seconds/update"],
    }

"""From counted calls to FLOPs, and from FLOPs to seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffrl.planning.costs import Costs
from diffrl.planning.counting import Epoch
from diffrl.planning.devices import UTILISATION, Device
from diffrl.planning.probe import Probe
from diffrl.settings import Settings
from diffrl.speed.heard import MOST

Work = dict[str, float]
"""FLOPs by what is done: forward, train, score; and how many optimizer steps: step."""


@dataclass(frozen=True)
class Pace:
    """How fast a device works.

    Args:
        device: of the plan.
        costs: of the calls.
        measured: what a probe found; none: the device's published rate counts.
        sharing: how many processes share the device at a time.
    """

    device: Device
    costs: Costs
    measured: Probe | None
    sharing: int = 1

    def seconds(self, work: Work) -> float | None:
        """Return how long work takes; nothing where the device's speed is not known."""
        if self.measured is None:
            if self.device.tflops is None:
                return None
            flops = sum((n for kind, n in work.items() if kind != "step"), 0.0)
            return self._slower * flops / (self.device.tflops * 1e12 * UTILISATION)
        shape, taken = self.measured.shape, self.measured
        each = {
            "forward": taken.forward / max(1.0, self.costs.forward(shape.sampled).flops),
            "score": taken.score / max(1.0, self.costs.score(shape.decoded).flops),
            "train": taken.train / max(1.0, self.costs.train(shape.trained).flops),
            "step": taken.step,
        }
        return self._slower * sum((each[kind] * n for kind, n in work.items()), 0.0)

    @property
    def _slower(self) -> float:
        """How many times as long as the probe a process takes that shares the device's cores."""
        if self.measured is None:
            return float(self.sharing)
        return max(1.0, self.sharing * self.measured.threads / self.measured.cores)

    @property
    def source(self) -> str:
        """Where the seconds come from, in words."""
        if self.measured is not None:
            return "measured for some seconds with the run's networks"
        if self.device.tflops is None:
            return "not known: no probe and no --tflops"
        rate = f"{self.device.tflops:g} TFLOPS"
        return f"{UTILISATION:.0%} of {rate}, as an H200 reached; nothing was measured here"


def sampling(costs: Costs, epochs: Sequence[Epoch]) -> Work:
    """Return the work of sampling an epoch, mean over their lengths."""
    flops = sum(
        n * costs.flops(kind, rows) for e in epochs for (kind, rows), n in e.sampling.items()
    )
    return {"forward": flops / len(epochs)}


def scoring(costs: Costs, epochs: Sequence[Epoch]) -> Work:
    """Return the work of decoding and scoring an epoch's pictures."""
    flops = 0.0
    for epoch in epochs:
        call = costs.graded if epoch.graded else costs.score
        flops += sum(n * call(rows).flops for rows, n in epoch.decoding.items())
    return {"score": flops / len(epochs)}


def updating(costs: Costs, epochs: Sequence[Epoch]) -> Work:
    """Return the work of an epoch's updates."""
    work: Work = {"forward": 0.0, "train": 0.0, "step": 0.0}
    for epoch in epochs:
        for (kind, rows), n in epoch.updating.items():
            work[kind] += n * costs.flops(kind, rows) / len(epochs)
        work["step"] += epoch.commits / len(epochs)
    return work


def hears(settings: Settings, costs: Costs) -> bool:
    """Return whether evaluations keep predictions, as in full precision on a CPU."""
    return settings.rounds_alike(costs.place) and not settings.speed.merge


def evaluating(
    settings: Settings, costs: Costs, pictures: int, rows: int, seen: int, begun: int
) -> Work:
    """Return the work of one evaluation, with its KL to the base model.

    Where the network rounds alike in batches of any size, live predictions are made once, and
    those of the first step are of all numbers of steps that begin at the same time.

    Args:
        settings: of the run.
        costs: of its calls.
        pictures: that are drawn at once.
        rows: of the network's call for them.
        seen: pictures that are decoded and scored at once.
        begun: times at which numbers of steps begin, where predictions are kept.
    """
    chosen = settings.eval
    shown, heard = min(chosen.shown, chosen.images), hears(settings, costs)
    asked = sum(chosen.steps) * (chosen.images + (1 if heard else 2) * shown)
    if heard:
        kept = min(chosen.images, (MOST - shown) // pictures * pictures)
        asked -= (len(chosen.steps) - begun) * (max(0, kept) + shown)
    drawn = asked / pictures
    judged = len(chosen.steps) * chosen.images / seen
    return {
        "forward": drawn * costs.forward(rows).flops,
        "score": judged * costs.evaluate(seen).flops,
    }


def evaluations(settings: Settings) -> int:
    """Return how often a whole run evaluates: before, after and every few epochs."""
    every, epochs = settings.eval.every, settings.train.epochs
    between = sum(1 for e in range(1, epochs) if every and e % every == 0)
    return 2 + between

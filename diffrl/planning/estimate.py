"""From settings to a plan: parts, phases and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from diffrl.errors import DiffrlError
from diffrl.planning import timing
from diffrl.planning.configs import PipelineConfig, pipeline_config
from diffrl.planning.costs import Costs, shapes
from diffrl.planning.counting import Counting, Epoch
from diffrl.planning.devices import Device
from diffrl.planning.memory import held, merged_bytes, own_bytes, slack
from diffrl.planning.notes import notes, tried
from diffrl.planning.plan import Part, Phase, Plan
from diffrl.planning.probe import Probe, Shape
from diffrl.planning.stand_ins import FORWARD
from diffrl.planning.timing import Pace, Work
from diffrl.settings import Settings
from diffrl.speed.memory import MOST_PROMPTS

T = TypeVar("T")


def sized(settings: Settings) -> Settings:
    """Return settings with a size for each that is found by trying: the one usual on a CPU."""
    return replace(settings, train=settings.train.model_copy(update=tried(settings)))


@dataclass
class Estimate:
    """Plans a run.

    Args:
        settings: of the run.
        prompts: that it samples.
        device: that it is planned for.
        processes: that share its trajectories.
        beside: how many of them share the machine's CPU and its memory; none: all.
        measured: what a probe found there.
        costs: of an earlier plan with the same networks.
        least: whether no more is planned than is certain: where nothing was measured, calls take
            their tensors alone.
        told: notes of what was before.
        tried: sizes that a run finds by trying, as they are planned.
    """

    settings: Settings
    prompts: Sequence[str]
    device: Device
    processes: int = 1
    beside: int | None = None
    measured: Probe | None = None
    costs: Costs | None = None
    least: bool = False
    told: tuple[str, ...] = ()
    tried: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tried = {**self.tried, **tried(self.settings)}
        self.settings = sized(self.settings)

    @cached_property
    def config(self) -> PipelineConfig:
        """The configuration of the pipeline."""
        return pipeline_config(self.settings.model.ref)

    @cached_property
    def counted(self) -> Costs:
        """Costs of the calls."""
        return self.costs or Costs.of(self.settings, self.config, self.device.kind)

    @cached_property
    def epochs(self) -> list[Epoch]:
        """What epochs ask for, one for each of their lengths."""
        return self._asked(Counting.epochs)

    def _asked(self, ask: Callable[[Counting], T]) -> T:
        """Return what is found by running the recipe's stages."""
        shape = shapes(self.settings, self.config)
        known = (self.settings, shape, self.prompts, self.processes, self.device.kind)
        try:
            return ask(Counting(*known))
        except DiffrlError:  # a sampler that reads latents wants the run's own size
            return ask(Counting(*known, side=shape.side))

    @property
    def drawn(self) -> int:
        """Pictures that an evaluation draws at once."""
        return min(self.settings.train.sample_batch, self.settings.eval.images)

    @property
    def _rows(self) -> int:
        """Rows of the network's calls while an evaluation draws: guidance makes two of each."""
        told = shapes(self.settings, self.config).embedded is not None
        return self.drawn * (2 if self.settings.model.guidance > 1 and not told else 1)

    @cached_property
    def _begun(self) -> int:
        """At how many times the numbers of steps of an evaluation begin."""
        if timing.hears(self.settings, self.counted):
            return self._asked(Counting.beginnings)
        return len(self.settings.eval.steps)

    @cached_property
    def shape(self) -> Shape:
        """The largest calls."""
        sampled = max((rows for e in self.epochs for _, rows in e.sampling), default=self._rows)
        decoded = max((rows for e in self.epochs for rows in e.decoding), default=self.drawn)
        return Shape(sampled, decoded, max(1, *(e.open for e in self.epochs)))

    def plan(self) -> Plan:
        """Return the plan."""
        made, train = self.counted.made, self.settings.train
        trained = sum(p.numel() for p in made.trained)
        phases = self._phases()
        own = [p.seconds for p in phases if p.name != "evaluating"]
        judged = phases[-1].seconds
        seconds = None
        if judged is not None:
            epoch = sum(s or 0.0 for s in own)
            seconds = train.epochs * epoch + timing.evaluations(self.settings) * judged
        return Plan(
            run=self._run,
            device=self.device.name,
            memory=self.device.memory // self._sharing,
            processes=self.processes,
            held=(
                *held(self.settings, self.counted, self.processes, self.measured, self._away),
                *self._recorded,
            ),
            phases=phases,
            speed=self._pace.source,
            seconds=seconds,
            epochs=train.epochs,
            trajectories=train.trajectories,
            trained=trained,
            frozen=sum(p.numel() for p in made.unet.parameters()) - trained,
            notes=tuple(notes(self)),
        )

    @property
    def _sharing(self) -> int:
        """How many processes share the device."""
        return (self.beside or self.processes) if self.device.kind == "cpu" else 1

    @property
    def _pace(self) -> Pace:
        return Pace(self.device, self.counted, self.measured, self._sharing)

    @property
    def _run(self) -> str:
        settings = self.settings
        rewards = " + ".join(w.reward.name for w in settings.rewards)
        what = f"{settings.recipe.name} on {settings.model.ref}"
        return f"{what}{', reward ' if rewards else ''}{rewards}, {settings.model.precision}"

    @property
    def _looked(self) -> int:
        """Rows of the largest call of an update that no backward pass follows."""
        return max((rows for e in self.epochs for k, rows in e.updating if k == FORWARD), default=0)

    @property
    def _recorded(self) -> tuple[Part, ...]:
        """What recorded calls hold: each has memory of its own, also between its replays."""
        if not self.settings.speed.graphs:
            return ()
        costs, shape = self.counted, self.shape
        rows = {self._rows, self._looked} | {n for e in self.epochs for _, n in e.sampling}
        calls = sum(costs.forward(n).peak for n in rows if n)
        return (
            Part("recorded calls", int(self._slack * (calls + costs.train(shape.trained).peak))),
        )

    def _phases(self) -> tuple[Phase, ...]:
        """Return the phases of an epoch: memory of its largest calls, time of the mean length."""
        costs, epochs, shape = self.counted, self.epochs, self.shape
        trained = own_bytes(self.settings, costs, self.processes)
        merged = Part("weights without adapters", merged_bytes(self.settings, costs))
        here = 0 if self._spares else 1
        rollout = Part("rollout", here * max(e.held for e in epochs))
        lean = Part("rollout", here * max(e.held - e.predicted for e in epochs))
        gradients = Part("gradients", trained)
        several = self.settings.train.micro_batch > 1 or self.settings.speed.graphs
        again = (
            several and any(e.accumulates for e in epochs) and self.settings.speed.shard == "off"
        )
        kept = Part("gradients to go back to", trained if again else 0)
        graded = any(e.graded for e in epochs)
        asked = any(e.decoding for e in epochs)
        judging = (costs.graded if graded else costs.score)(shape.decoded).peak if asked else 0
        learning = max(costs.train(shape.trained).peak, costs.forward(self._looked).peak)
        seen = min(self.drawn, self.settings.train.decode_batch)
        drawn = max(costs.forward(self._rows).peak, costs.evaluate(seen).peak)
        drawing = costs.forward(shape.sampled).peak if any(e.sampling for e in epochs) else 0
        if self._recorded:  # which hold the memory of these calls already
            learning, drawing, drawn = 0, 0, costs.evaluate(seen).peak
        drew, judged, learned = (
            each(costs, epochs) for each in (timing.sampling, timing.scoring, timing.updating)
        )
        at_once = max(1, self.settings.train.sample_batch // self.settings.recipe.sampler.group)
        several_pieces = any(e.rows > at_once * self.settings.recipe.sampler.group for e in epochs)
        if several_pieces and self.settings.overlaps(self.device.kind):
            judging += drawing + merged.bytes  # the next piece is sampled meanwhile
        nothing: Work = {}
        copied = Part("copies of the rollout", rollout.bytes)
        followed = Part("copies of the weights", 2 * trained)
        evaluated = timing.evaluating(
            self.settings, costs, self.drawn, self._rows, seen, self._begun
        )
        return (
            self._phase("sampling", (rollout, merged), drawing, drew, f"{shape.sampled} rows"),
            self._phase("scoring", (rollout,), judging, judged, f"{shape.decoded} pictures"),
            self._phase("joining", (rollout, copied), 0, nothing, ""),
            self._phase("updating", (lean, gradients, kept), learning, learned,
                        f"{shape.trained} rows"),
            self._phase("following", (lean, followed), 0, nothing, ""),
            self._phase("evaluating", (merged,), drawn, evaluated, f"{self.drawn} pictures"),
        )  # fmt: skip

    def _phase(
        self, name: str, parts: tuple[Part, ...], working: int, work: Work, calls: str
    ) -> Phase:
        tflop = sum((n for kind, n in work.items() if kind != "step"), 0.0) / 1e12
        seconds = self._pace.seconds(work)
        needed = int(self._slack * working)
        return Phase(name, parts, needed, tflop, seconds, calls)

    @property
    def _spares(self) -> bool:
        """Whether the memory of a GPU is spared by keeping things in the CPU's."""
        return self.device.kind != "cpu" and self.settings.speed.low_memory

    @property
    def _away(self) -> bool:
        """Whether the text encoder leaves the device once prompts are encoded."""
        return self._spares and len(set(self.prompts)) <= MOST_PROMPTS

    @cached_property
    def _slack(self) -> float:
        return slack(self.counted, self.measured, self.least)

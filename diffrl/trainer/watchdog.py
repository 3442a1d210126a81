"""Watches for collapse and reward hacking: what training was not told to keep, and may destroy.

It remembers by name, in plain numbers that a checkpoint keeps: what the model scored before
training, the best since, and what was done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from diffrl.scoring import ScoredBy
from diffrl.settings.sections import WatchdogSettings
from diffrl.trainer.evaluate import Evaluation

SLOW, ROLLBACKS, GOOD = "slow", "rollbacks", "good"
"""The factor on the learning rate, how often the run went back, and the last good checkpoint."""

RANK = ("warn", "slow", "rollback", "stop")
"""Actions, from the mildest on."""

OF_EVALUATIONS = ("steps", "best", "spread", "base", "row")
"""What the names begin with of what is remembered of evaluations."""

FEWEST, KEPT = 5, 50
"""Gradient norms that the median needs, and that are remembered."""


@dataclass(frozen=True)
class Sighting:
    """A rule that is broken, by what, and what its figure should keep to."""

    rule: str
    message: str
    measured: float
    limit: float
    action: str


@dataclass
class Watchdog:
    """Looks at evaluations and gradients.

    Args:
        settings: limits and actions.
        memory: what it knows, by name; changed in place.
    """

    settings: WatchdogSettings
    memory: dict[str, float] = field(default_factory=dict)

    def on_evaluation(
        self, done: Evaluation, held_out: Sequence[ScoredBy], moved: Mapping[str, float]
    ) -> list[Sighting]:
        """Return the rules that an evaluation breaks; the first one sets the measure."""
        self._begin_anew_where_asked_otherwise(done)
        found: list[Sighting] = []
        for reward in held_out:
            found += self._fall(reward, done)
        found += self._ratio("diversity", done, self.settings.diversity, both=False)
        found += self._ratio("sharpness", done, self.settings.sharpness, both=True)
        if self.settings.kl and moved and max(moved.values()) > self.settings.kl:
            worst = max(moved.values())
            text = f"the KL to the base model is {worst:.2g} nats per latent element"
            found += self._seen("kl", text, worst, self.settings.kl)
        return self._patient(found)

    def _begin_anew_where_asked_otherwise(self, done: Evaluation) -> None:
        """Forget what evaluations in other numbers of steps have found, which says nothing here."""
        mark = "steps:" + "+".join(sorted({key.rpartition("/")[2] for key in done.each}))
        if mark not in self.memory and any(name.startswith("steps:") for name in self.memory):
            for name in [k for k in self.memory if k.partition(":")[0] in OF_EVALUATIONS]:
                del self.memory[name]
        self.memory[mark] = 1.0

    def on_gradient(self, norm: float | None, steps: int) -> list[Sighting]:
        """Return a sighting if an epoch's gradient norm leaves those of earlier ones behind.

        Those of epochs with as many denoising steps: some losses add up over them.
        """
        if norm is None or not self.settings.grad_norm:
            return []
        mark = f"norm:{steps}:"
        names = sorted((k for k in self.memory if k.startswith(mark)), key=_number)
        earlier = [self.memory[k] for k in names]
        self.memory[f"{mark}{_number(names[-1]) + 1 if names else 0}"] = norm
        for old in names[: max(0, len(names) + 1 - KEPT)]:
            del self.memory[old]
        if len(earlier) < FEWEST or norm <= (limit := self.settings.grad_norm * median(earlier)):
            return []
        text = f"the gradient norm is {norm:.3g}, its median so far {median(earlier):.3g}"
        return self._seen("grad_norm", text, norm, limit)

    def _fall(self, reward: ScoredBy, done: Evaluation) -> list[Sighting]:
        """Return a sighting if a reward that is not trained on fell too far below its best."""
        keys = [k for k in done.each if k.startswith(f"eval/{reward.name}/")]
        columns = [done.each[k][done.each[k].isfinite()].double() for k in keys]
        columns = [c for c in columns if len(c)]
        if not columns:
            return []
        sign = 1.0 if reward.higher_is_better else -1.0
        mean = sign * float(sum(c.mean() for c in columns)) / len(columns)
        spread = float(sum(c.std(correction=0) for c in columns)) / len(columns)
        first = self.memory.setdefault(f"spread:{reward.name}", spread)
        best = max(mean, self.memory.get(f"best:{reward.name}", mean))
        self.memory[f"best:{reward.name}"] = best
        width = ((first**2 + spread**2) / 2) ** 0.5
        limit = self.settings.held_out
        if not limit or not width or (fallen := (best - mean) / width) <= limit:
            return []
        text = (
            f"{reward.name}, which is only watched, is {sign * mean:.2f}, {fallen:.2f} standard "
            f"deviations worse than its best, {sign * best:.2f}"
        )
        return self._seen("held_out", text, fallen, limit)

    def _ratio(
        self, measure: str, done: Evaluation, limit: float | None, both: bool
    ) -> list[Sighting]:
        """Return a sighting if a measure of pictures has left what it was before training."""
        keys = [k for k in done.scores if k.startswith(f"picture/{measure}/")]
        if not keys:
            return []
        now = sum(done.scores[k] for k in keys) / len(keys)
        before = self.memory.setdefault(f"base:{measure}", now)
        if not limit or before <= 0:
            return []
        share = now / before
        good = 1 / limit <= share <= limit if both else share >= limit
        if good:
            return []
        text = f"{measure} of the pictures is {now:.3g}, {share:.2f} times what it was at first"
        return self._seen(measure, text, share, limit)

    def _seen(self, rule: str, text: str, measured: float, limit: float) -> list[Sighting]:
        advice = f" (watchdog.{rule} = {getattr(self.settings, rule):g})"
        action = self.settings.action_of(rule)
        return [Sighting(rule, text + advice, measured, limit, action)] if action != "off" else []

    def _patient(self, found: list[Sighting]) -> list[Sighting]:
        """Return those that were broken as often in a row as the settings bear."""
        rules = {one.rule for one in found}
        for name in [k for k in self.memory if k.startswith("row:")]:
            if name.removeprefix("row:") not in rules:
                del self.memory[name]
        for rule in rules:
            self.memory[f"row:{rule}"] = self.memory.get(f"row:{rule}", 0.0) + 1
        return [s for s in found if self.memory[f"row:{s.rule}"] >= self.settings.patience]

    @property
    def unharmed(self) -> bool:
        """Whether the last evaluation broke no rule, however patient the settings are."""
        return not any(name.startswith("row:") for name in self.memory)


def hardest(found: Sequence[Sighting]) -> str:
    """Return the hardest action that sightings ask for; nothing where there is none."""
    return max((one.action for one in found), key=RANK.index, default="")


def _number(name: str) -> int:
    return int(name.rpartition(":")[2])

"""The value that a run is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from diffrl.recipe import Recipe
from diffrl.settings.sections import (
    AdapterSettings,
    CheckpointSettings,
    EvalSettings,
    ModelSettings,
    OptimizerSettings,
    TrainSettings,
    WatchdogSettings,
)
from diffrl.settings.speed import SpeedSettings
from diffrl.stages import Reward, Sampler


@dataclass(frozen=True)
class WeightedReward:
    """A reward and its factor in the sum that is trained on."""

    reward: Reward
    weight: float = 1.0


@dataclass(frozen=True)
class Settings:
    """A fully resolved, validated run.

    `watched` are the rewards that evaluations score with beside those that are trained on.
    `origins` maps every `slot.field` to where its value came from, for example
    `"preset emoji"` or `"--set loss.clip=2e-4"`.
    """

    recipe: Recipe
    rewards: tuple[WeightedReward, ...]
    watched: tuple[Reward, ...]
    preset: str
    model: ModelSettings
    adapter: AdapterSettings
    optimizer: OptimizerSettings
    train: TrainSettings
    eval: EvalSettings
    checkpoint: CheckpointSettings
    watchdog: WatchdogSettings
    speed: SpeedSettings
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def recomputes(self) -> bool:
        """Whether log-probs are recomputed before updates, for losses about their ratios."""
        asked = self.speed.recompute
        wanted = asked == "on" or (asked == "auto" and self.model.precision != "fp32")
        return wanted and self.recipe.sampler.live and "log_prob" in self.recipe.loss.needs

    @property
    def drawing(self) -> Sampler:
        """The sampler that draws evaluations, in as many steps as the longest of them."""
        return self.recipe.sampler.for_evaluation(max(self.eval.steps, default=1), self.eval.eta)

    def deduplicates(self, device: str) -> bool:
        """Return whether equal rows of a batch are predicted once, on a kind of device.

        On a CPU it costs next to nothing to find them. A GPU would be waited for, and compiled
        networks have few sizes.
        """
        chosen = self.speed.deduplicate
        gains = device == "cpu" and self.speed.compile == "off"
        return chosen == "on" or (chosen == "auto" and gains)

    def rounds_alike(self, device: str) -> bool:
        """Return whether a network on a kind of device rounds a row alike in batches of any size.

        What it predicted of a row need then not be asked again.
        """
        return device == "cpu" and self.model.precision == "fp32"

    def overlaps(self, device: str) -> bool:
        """Return whether pictures are scored while the next ones are sampled, on a kind of device.

        A compiled decoder would not be called in the thread that it is compiled in: it would be
        compiled or recorded anew for each thread, which old versions of PyTorch refuse. A served
        reward makes up for the first, not for recordings, which belong to the thread that made
        them.
        """
        from diffrl.speed.compiling import GRAPHS

        served = any(w.reward.remote for w in self.rewards)
        gains = served or (device == "cuda" and self.speed.compile == "off")
        chosen = self.train.overlap
        return chosen == "on" or (chosen == "auto" and gains and self.speed.compile not in GRAPHS)

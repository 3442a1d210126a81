"""What observers are told while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diffrl.tensors import Float, Tensor

if TYPE_CHECKING:
    from diffrl.settings import Settings
    from diffrl.types import Rewards, Rollout


@dataclass(frozen=True)
class RunStarted:
    """A run begins, or goes on from a checkpoint (then `epoch` is not 0)."""

    folder: Path
    settings: Settings
    epoch: int


@dataclass(frozen=True)
class RolloutDone:
    """An epoch has sampled and scored; nothing is updated yet.

    Of several processes the first one tells of its own rows, whose groups are whole. With
    `speed.low_memory` the rollout is in the CPU's memory, and the rewards on the device.
    """

    epoch: int
    rollout: Rollout
    rewards: Rewards


@dataclass(frozen=True)
class EpochDone:
    """An epoch is over. `metrics` is what its line in `metrics.jsonl` says."""

    epoch: int
    epochs: int
    metrics: Mapping[str, int | float]


@dataclass(frozen=True)
class Evaluated:
    """Pictures drawn on fixed seeds: one block per number of steps, and scores.

    `images[s]` belongs to `steps[s]` and shows `prompts`, the first of `text`. `scores` are means,
    keyed `eval/<reward>/<steps>-step`, `picture/<measure>/<steps>-step` and `kl/<steps>-step`;
    `each` has those that single pictures have (neither KL nor diversity), in the order of `text`;
    `by_prompt` has diversity, which only pictures of one prompt have together.
    `lower_is_better` names rewards of which less is more, `groupwise` those that score pictures
    only beside others of the same model.
    """

    epoch: int
    steps: tuple[int, ...]
    prompts: tuple[str, ...]
    images: Float[Tensor, "s b 3 h w"]
    scores: Mapping[str, float]
    text: tuple[str, ...] = ()
    each: Mapping[str, Float[Tensor, "n"]] = field(default_factory=dict)
    lower_is_better: tuple[str, ...] = ()
    by_prompt: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    groupwise: tuple[str, ...] = ()


@dataclass(frozen=True)
class Noticed:
    """Something a person should know of: a check that failed, or a rule that was broken.

    Args:
        epoch: in which it was noticed.
        source: who noticed: `check` or `watchdog`; `observer`: one of these has failed; `run`: of
            itself, as what it goes on with.
        rule: name of the check or rule.
        message: what was measured, its limit, and what to do.
        action: what was done about it: `warn`, or another word of the source.
        measured: the figure, if there is one.
        limit: that it should keep to, if there is one.
        back_to: the epoch that the run goes back to, if it does.
    """

    epoch: int
    source: str
    rule: str
    message: str
    action: str = "warn"
    measured: float | None = None
    limit: float | None = None
    back_to: int | None = None


@dataclass(frozen=True)
class RunDone:
    """A run has ended with its last epoch."""

    folder: Path
    epoch: int

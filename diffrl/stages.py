"""The five stages of a recipe, as abstract classes.

A component is a frozen pydantic model whose fields are its hyperparameters: it can be compared,
printed, validated and saved, and holds no other state. What it needs and gives is declared, so
that a recipe is checked before any weights load. A component never sees a rank, a device or a
logger; randomness comes from the `rng` it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from diffrl.component import Component
from diffrl.protocols import Judge, Policy, Weights
from diffrl.tensors import Float, Generator, Tensor
from diffrl.types import (
    Advantages,
    Batch,
    LossOut,
    Memory,
    Minibatch,
    Prompts,
    Rewards,
    Rollout,
)


class Sampler(Component):
    """Produces rows of denoised latents for prompts.

    Attributes:
        steps: T, the number of denoising steps.
        group: how many rows each drawn prompt gets. It belongs to the algorithm, so another
            sampler keeps it, as it does `share_noise`.
        lengths: numbers of steps that epochs have in turn, in place of `steps`; empty: always T.
        live: whether its log-probs are those of the weights that are trained, which others may
            compute anew; not so if it draws from other weights, or reads what others drew.
    """

    kept: ClassVar[frozenset[str]] = frozenset({"group", "share_noise"})
    live: ClassVar[bool] = True

    steps: int
    group: int
    lengths: tuple[PositiveInt, ...] = Field(
        default=(), description="Numbers of steps that epochs have in turn, in place of `steps`."
    )

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows; rows of a group are neighbours."""
        raise NotImplementedError

    def prompt_problems(self, prompts: Sequence[str]) -> list[str]:
        """Return why it cannot sample these prompts, one line each; asked before weights load."""
        return []

    def density_problems(self) -> list[str]:
        """Return why its steps have no density, one line each; asked where the loss reads one."""
        return []

    def for_epoch(self, epoch: int) -> Sampler:
        """Return the sampler of one epoch, with one number of steps; the first is number 1.

        Raises:
            ValidationError: of pydantic, if the sampler cannot have that number.
        """
        if not self.lengths:
            return self
        steps = self.lengths[(epoch - 1) % len(self.lengths)]
        own = {name: getattr(self, name) for name in type(self).model_fields}
        return self.model_validate({**own, "steps": steps, "lengths": ()})

    def for_evaluation(self, steps: int, eta: float) -> Sampler:
        """Return the sampler of evaluations: one row per prompt, another number of steps.

        `eta` replaces the field of that name, if there is one. A sampler that reads data instead of
        drawing returns one that draws.
        """
        changes = {"steps": steps, "group": 1, "eta": eta, "lengths": ()}
        own = {k: v for k, v in changes.items() if k in type(self).model_fields}
        return self.model_copy(update=own)


class RewardPredictor(Component):
    """Turns a rollout into a reward for every step, querying the judge as often as it must.

    Attributes:
        last_alone: whether only the last step's reward is not zero.
        asks_apart: whether it may ask the judge for rows of a group at steps of their own, which no
            reward that compares them would see together.
    """

    last_alone: ClassVar[bool] = False

    @property
    def asks_apart(self) -> bool:
        """Whether it may ask the judge for rows of a group at steps of their own."""
        return False

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards of shape `n T`."""
        raise NotImplementedError

    def queries(self, steps: int) -> int:
        """Return how many pictures per row the judge scores at most."""
        raise NotImplementedError


class AdvantageEstimator(Component):
    """Turns rewards into advantages. The only stage that remembers, in a plain value."""

    @property
    def looks_ahead(self) -> bool:
        """Whether a step's advantage depends on the rewards of later steps."""
        return True

    def __call__(
        self, rewards: Rewards, prompts: Prompts, memory: Memory
    ) -> tuple[Advantages, Memory]:
        """Return advantages of shape `n T` and the memory to hand in next time."""
        raise NotImplementedError


class UpdateScheduler(Component):
    """Decides which rows and steps each backward pass and each optimizer step sees.

    It yields indices, so that the order of updates is tested without a model.

    Attributes:
        arity: k, rows per tuple.
        whole_groups: whether a tuple is a whole group instead, of at least `arity` rows.
        chooses_rows: whether it may leave rows out, as one does that takes the best and the worst.
        commits_once: whether an epoch has a single optimizer step (stays on-policy).
        whole_trajectories: whether each minibatch holds all steps of its rows.
    """

    arity: ClassVar[int]
    whole_groups: ClassVar[bool] = False
    chooses_rows: ClassVar[bool] = False

    @property
    def commits_once(self) -> bool:
        """Whether an epoch makes one optimizer step, so that all gradients are on-policy."""
        return False

    @property
    def whole_trajectories(self) -> bool:
        """Whether each minibatch holds all steps of its rows, but for the last that are skipped."""
        return False

    def group_problems(self, group: int) -> list[str]:
        """Return what keeps it from working with groups of that many rows, one line each."""
        if group >= self.arity:
            return []
        return [
            f"update scheduler {self.name!r} needs groups of at least {self.arity} rows, but "
            f"sampler.group is {group}"
        ]

    def __call__(
        self, prompts: Prompts, advantages: Advantages, rng: Generator
    ) -> Iterator[Minibatch]:
        """Yield the epoch's minibatches, in order."""
        raise NotImplementedError

    def behind(self, epoch: int) -> float:
        """Return the decay with which `old` follows `live` after this epoch; 0 copies.

        The first epoch is number 1.
        """
        return 0.0

    def trained(self, steps: int) -> int:
        """Return how many of T steps are trained."""
        return steps


class Loss(Component):
    """A mean over tuples and steps of a per-tuple loss.

    Attributes:
        arity: k, rows per tuple that it compares.
        any_arity: whether it compares every two rows of larger tuples, too.
        on_policy: whether it is wrong after the first optimizer step of an epoch.
        whole_trajectories: whether it adds up the steps of a row, and so must see all of them.
    """

    arity: ClassVar[int] = 1
    any_arity: ClassVar[bool] = False
    on_policy: ClassVar[bool] = False
    whole_trajectories: ClassVar[bool] = False

    @property
    def log_ratio_limit(self) -> float | None:
        """The clip range on log-ratios, if any: what a log-prob gap is compared with."""
        return None

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        raise NotImplementedError


Scorer = Callable[[Float[Tensor, "b 3 h w"], Sequence[str]], Float[Tensor, "b"]]


class Reward(Component):
    """Scores pictures against prompts. Loads its weights when a run begins.

    Attributes:
        scale: factor from raw scores to the unit in which papers print them.
        higher_is_better: otherwise training lowers the score.
        differentiable: whether the score carries gradient to the picture.
        groupwise: whether a score depends on the other pictures of the call; it is then handed
            all pictures of one group and denoising step at once.
        likes_noise: whether noise may score higher than pictures; else `diffrl doctor` calls that a
            failure.
        remote: whether scores come from elsewhere, so that sampling may go on meanwhile.
        licence: of its weights.
        preset: of whose pictures alone it knows anything; `diffrl eval` leaves it out of others
            unless it is named.
        transport: fields that say how it is asked, and not what it scores.

    A loaded scorer may have attributes of these names, which count instead: a function or a server
    is only known when it is loaded.
    """

    scale: ClassVar[float] = 1.0
    higher_is_better: ClassVar[bool] = True
    differentiable: ClassVar[bool] = False
    groupwise: ClassVar[bool] = False
    likes_noise: ClassVar[bool] = False
    remote: ClassVar[bool] = False
    licence: ClassVar[str] = "unknown"
    preset: ClassVar[str | None] = None
    transport: ClassVar[tuple[str, ...]] = ()

    def identity(self) -> dict[str, Any]:
        """Return the fields by which two rewards of one name are the same, as JSON holds them."""
        return self.model_dump(mode="json", exclude=set(self.transport))

    def unfit(self, prompts: Sequence[str]) -> str | None:
        """Return why it cannot score these prompts, if so; asked before any weights load."""
        return None

    def load(self, device: str) -> Scorer:
        """Return the scorer: pictures in [0, 1] and prompts to raw scores of shape `b`."""
        raise NotImplementedError


STAGES: dict[str, type[Component]] = {
    "sampler": Sampler,
    "reward_predictor": RewardPredictor,
    "advantage_estimator": AdvantageEstimator,
    "update_scheduler": UpdateScheduler,
    "loss": Loss,
}

__all__ = [
    "STAGES",
    "AdvantageEstimator",
    "Component",
    "Judge",
    "Loss",
    "Policy",
    "Reward",
    "RewardPredictor",
    "Sampler",
    "Scorer",
    "UpdateScheduler",
    "Weights",
]

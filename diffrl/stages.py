"""The five stages of a recipe, as abstract classes.

A component is a frozen pydantic model whose fields are its hyperparameters: it can be compared,
printed, validated and saved, and holds no other state. What it needs and gives is declared, so
that a recipe is checked before any weights load. A component never sees a rank, a device or a
logger; randomness comes from the `rng` it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from diffrl.tensors import Float, Generator, Int, Tensor
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

if TYPE_CHECKING:
    from diffrl.kernels import Ddim

Weights = Literal["live", "old", "base"]


@runtime_checkable
class Policy(Protocol):
    """The diffusion model being trained, as stages see it.

    `weights` names a set of weights: `live` is being trained, `old` follows it at the pace of the
    update scheduler's `behind`, `base` is the model as it was loaded. Gradient reaches `live` only.
    """

    def prompts(self, text: Sequence[str], group: int = 1) -> Prompts:
        """Return every text `group` times, side by side, with its condition."""
        ...

    def normal(self, shape: Sequence[int], rng: Generator) -> Float[Tensor, "..."]:
        """Return standard normal noise of shape `(*shape, *latent)`."""
        ...

    def timesteps(self, steps: int) -> Float[Tensor, "T"]:
        """Return the training timesteps of a number of denoising steps, noisiest first."""
        ...

    def ddim(self, steps: int, eta: float) -> Ddim:
        """Return the DDIM kernel of this model's noise schedule for a number of steps."""
        ...

    def predict(
        self,
        x: Float[Tensor, "*rows c h w"],
        t: Float[Tensor, "*rows"],
        cond: Float[Tensor, "..."],
        weights: Weights = "live",
    ) -> Float[Tensor, "*rows c h w"]:
        """Return the network's output; `cond` broadcasts over trailing axes of `rows`."""
        ...

    def log_prob(self, batch: Batch, weights: Weights = "live") -> Float[Tensor, "m k s"]:
        """Return the log-density of each stored transition, in nats averaged over the latent."""
        ...

    def noise(
        self, x0: Float[Tensor, "m k *latent"], t: Float[Tensor, "m k s"]
    ) -> tuple[Float[Tensor, "m k s *latent"], Float[Tensor, "m k s *latent"]]:
        """Return `x0` noised to `t`, and the network output that would undo it.

        The noise is fresh, and the same for all rows of a tuple.
        """
        ...

    def replay(self, batch: Batch) -> Float[Tensor, "m k *latent"]:
        """Return the stored `x0`, carrying gradient through the batch's final s steps."""
        ...


@runtime_checkable
class Judge(Protocol):
    """The weighted sum of the rewards in use, applied to the decoded latent."""

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row; `step` is the denoising step that predicted `x0`."""
        ...

    def each(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b r"]:
        """Return the weighed score of each reward; their sum is what a call returns."""
        ...

    def grad(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *latent"]]:
        """Return scores and their gradients; refused where a reward is not differentiable."""
        ...


class Component(BaseModel):
    """A named, frozen bundle of hyperparameters.

    Attributes:
        name: what settings call it, in kebab-case.
        needs: what earlier stages must give: `x0`, `x0_hat`, `path`, `log_prob`, `grad`, `labels`,
            `old` and `base` (extra sets of weights, always available).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def gives(self) -> frozenset[str]:
        """What later stages can read because of this one."""
        return frozenset()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return []


class Sampler(Component):
    """Produces rows of denoised latents for prompts.

    Attributes:
        steps: T, the number of denoising steps.
        group: how many rows each drawn prompt gets.
    """

    steps: int
    group: int

    def __call__(self, policy: Policy, text: Sequence[str], rng: Generator) -> Rollout:
        """Return `len(text) * group` rows; rows of a group are neighbours."""
        raise NotImplementedError


class RewardPredictor(Component):
    """Turns a rollout into a reward for every step, querying the judge as often as it must."""

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards of shape `n T`."""
        raise NotImplementedError

    def queries(self, steps: int) -> int:
        """Return how many pictures per row the judge scores at most."""
        raise NotImplementedError


class AdvantageEstimator(Component):
    """Turns rewards into advantages. The only stage that remembers, in a plain value."""

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
        commits_once: whether an epoch has a single optimizer step (stays on-policy).
    """

    arity: ClassVar[int]

    @property
    def commits_once(self) -> bool:
        """Whether an epoch makes one optimizer step, so that all gradients are on-policy."""
        return False

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
        on_policy: whether it is wrong after the first optimizer step of an epoch.
    """

    arity: ClassVar[int] = 1
    on_policy: ClassVar[bool] = False

    @property
    def log_ratio_limit(self) -> float | None:
        """The clip range on log-ratios, if any: what a log-prob gap is compared with."""
        return None

    def __call__(self, policy: Policy, batch: Batch) -> LossOut:
        """Return the loss of one batch."""
        raise NotImplementedError


Scorer = Callable[[Float[Tensor, "b 3 h w"], Sequence[str]], Float[Tensor, "b"]]


class Reward(Component):
    """Scores pictures against prompts; higher is better. Loads its weights when first used.

    Attributes:
        scale: factor from raw scores to the unit in which papers print them.
        differentiable: whether the score carries gradient to the picture.
    """

    scale: ClassVar[float] = 1.0
    differentiable: ClassVar[bool] = False

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

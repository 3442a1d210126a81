"""The values that travel between the five stages. All are frozen.

Shape letters: n rows (trajectories), T denoising steps, m tuples of k rows, s steps of one
minibatch. Step index 0 is the noisiest step, T-1 the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from diffrl.tensors import Bool, Float, Int, Tensor, put


@dataclass(frozen=True)
class Prompts:
    """What each row is asked to show.

    `group` numbers the rows that were drawn together: rows of one group share their prompt and,
    where the sampler says so, their initial noise. Rows of a group are neighbours, and no other
    group has their number, though its prompt may be the same.

    Advantage estimators and update schedulers are handed all rows of an epoch, of every process:
    `cond` is then empty, of shape `n 0`, and `group` on the CPU, wherever rewards are.
    """

    text: tuple[str, ...]
    group: Int[Tensor, "n"]
    cond: Float[Tensor, "n *cond"]

    def __len__(self) -> int:
        return len(self.text)

    def pick(self, rows: Sequence[int]) -> Prompts:
        """Return the given rows, in the given order; rows may repeat."""
        at = list(rows)
        return Prompts(tuple(self.text[i] for i in at), self.group[at], self.cond[at])


@dataclass(frozen=True)
class Transition:
    """One denoising step as a Gaussian: x_next ~ N(mean, std²), and the clean state it predicts."""

    mean: Float[Tensor, "*rows"]
    std: Float[Tensor, "*#rows"]
    x0_hat: Float[Tensor, "*rows"]


@runtime_checkable
class Kernel(Protocol):
    """The transition of a sampler; replay evaluates the same one that sampling drew from.

    One whose last state is noisier than the picture says `noisy_end = True`: the picture is then
    the clean state that the last step predicts.
    """

    def transition(
        self, output: Float[Tensor, "*r"], t: Tensor, x: Float[Tensor, "*r"]
    ) -> Transition:
        """Return the Gaussian of the next state, from the network's output at `(x, t)`."""
        ...


@dataclass(frozen=True)
class Path:
    """The denoising path of each row.

    `x[:, 0]` is noise, `x[:, k + 1]` the result of step k. `x0_hat[:, k]` is the clean state that
    the network predicted at step k: with `x`, SDPO's dual state. `log_prob` is in nats,
    **averaged** over the latent's elements, as in the published DDPO and SDPO code.
    """

    kernel: Kernel
    log_prob: Float[Tensor, "n T"]
    x: Float[Tensor, "n T+1 *latent"]
    x0_hat: Float[Tensor, "n T *latent"] | None = None


@dataclass(frozen=True)
class Rollout:
    """Rows sampled from the policy (or read from data). `x0` is the final latent."""

    prompts: Prompts
    times: Float[Tensor, "T"]
    x0: Float[Tensor, "n *latent"]
    path: Path | None = None
    labels: Float[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Rewards:
    """A reward for every step. A terminal reward fills the last column only.

    `each` holds the weighted scores of the r rewards in use, where every row was scored once.
    """

    value: Float[Tensor, "n T"]
    grad: Float[Tensor, "n *latent"] | None = None
    each: Float[Tensor, "n r"] | None = None


@dataclass(frozen=True)
class Advantages:
    """How much better than expected each step was; `grad` and `each` as the rewards had them."""

    value: Float[Tensor, "n T"]
    grad: Float[Tensor, "n *latent"] | None = None
    each: Float[Tensor, "n r"] | None = None


@dataclass(frozen=True)
class Memory:
    """What an advantage estimator remembers between epochs: recent returns.

    Keyed by (prompt, T); each value holds one row per remembered trajectory, oldest first. It is
    handed over where rewards are, whether or not a run was resumed.
    """

    history: Mapping[tuple[str, int], Float[Tensor, "c T"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Minibatch:
    """Which rows and steps one backward pass uses.

    Args:
        rows: m tuples of k rows that the loss compares with each other.
        steps: the steps of each tuple; its members share them.
        commit: whether the optimizer steps afterwards, as it must after the last of an epoch.
        weight: factor on the loss (1 / number of minibatches that share an optimizer step).
    """

    rows: Int[Tensor, "m k"]
    steps: Int[Tensor, "m s"]
    commit: bool = True
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """What the loss sees: the rows and steps of a `Minibatch`, gathered.

    `length` is T, the number of steps of the trajectories.
    """

    cond: Float[Tensor, "m k *cond"]
    step: Int[Tensor, "m s"]
    t: Float[Tensor, "m k s"]
    x0: Float[Tensor, "m k *latent"]
    advantage: Float[Tensor, "m k s"]
    kernel: Kernel | None = None
    x: Float[Tensor, "m k s *latent"] | None = None
    x_next: Float[Tensor, "m k s *latent"] | None = None
    log_prob: Float[Tensor, "m k s"] | None = None
    grad: Float[Tensor, "m k *latent"] | None = None
    labels: Float[Tensor, "m k"] | None = None
    each: Float[Tensor, "m k r"] | None = None
    length: int = 0


@dataclass(frozen=True)
class LossOut:
    """A scalar to minimise (a mean over tuples), and scalars worth logging, none called `value`."""

    value: Float[Tensor, ""]
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


def gather(rollout: Rollout, advantages: Advantages, minibatch: Minibatch) -> Batch:
    """Return the rows and steps that a minibatch names."""
    steps, path = minibatch.steps, rollout.path
    here: dict[object, tuple[Tensor, Tensor]] = {}

    def of(values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices where the values are, copied there once."""
        if values.device not in here:
            here[values.device] = put(minibatch.rows, values.device), put(steps, values.device)
        return here[values.device]

    def rows_of(values: Tensor) -> Tensor:
        return values[of(values)[0]]

    def steps_of(values: Tensor, ahead: int = 0) -> Tensor:
        rows, ks = of(values)
        return values[rows[:, :, None], ks[:, None, :] + ahead]

    return Batch(
        cond=rows_of(rollout.prompts.cond),
        step=of(rollout.x0)[1],
        t=rollout.times[of(rollout.times)[1][:, None]].expand(*minibatch.rows.shape, -1),
        x0=rows_of(rollout.x0),
        advantage=steps_of(advantages.value),
        kernel=path.kernel if path else None,
        x=steps_of(path.x) if path else None,
        x_next=steps_of(path.x, ahead=1) if path else None,
        log_prob=steps_of(path.log_prob) if path else None,
        grad=None if advantages.grad is None else rows_of(advantages.grad),
        labels=None if rollout.labels is None else rows_of(rollout.labels),
        each=None if advantages.each is None else rows_of(advantages.each),
        length=advantages.value.shape[1],
    )


def at_step(batch: Batch, j: int) -> Batch:
    """Return the batch with its j-th step alone."""
    names = ("t", "advantage", "x", "x_next", "log_prob")
    one = {n: v[:, :, j : j + 1] for n in names if (v := getattr(batch, n)) is not None}
    return replace(batch, step=batch.step[:, j : j + 1], **one)


def last_step(reward: Float[Tensor, "n"], steps: int) -> Float[Tensor, "n T"]:
    """Return a terminal reward as a dense one: zero but for the last column."""
    dense = reward.new_zeros(len(reward), steps)
    dense[:, -1] = reward
    return dense


__all__ = [
    "Advantages",
    "Batch",
    "Bool",
    "Float",
    "Int",
    "Kernel",
    "LossOut",
    "Memory",
    "Minibatch",
    "Path",
    "Prompts",
    "Rewards",
    "Rollout",
    "Tensor",
    "Transition",
    "at_step",
    "gather",
    "last_step",
]

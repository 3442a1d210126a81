"""Every algorithm against a world in closed form: its gradient on average, and its optimum."""

from dataclasses import dataclass

import pytest
import torch
from diffrl_d3po import D3PO, StepPreference
from diffrl_ddpo import DDPO, ClippedRatio
from diffrl_rebel import PRDP, PRDP_REBEL, REBEL, ProximalRelativeReward, RelativeReward
from diffrl_sdpo import SDPO, RewardDifference
from linear_world import SIZE, LinearPolicy, World

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Groups, Pairs, RowsFirst
from diffrl.recipe import Recipe
from diffrl.tensors import Float, Int, Tensor
from diffrl.testing.loop import train
from diffrl.testing.toy import ToyJudge
from diffrl.types import Memory, Prompts, gather

STEPS, TRAINED = 4, 3
SKIP = {"skip_last": 1}  # its noise is tiny, so its gradient is too noisy to average
WORLD = World(STEPS)
WHERE = 0.3 * WORLD.lacking / WORLD.effect.sum()  # the shift at which gradients are taken
MEAN = float((0.7 * WORLD.lacking).square().mean() + WORLD.noise**2 + WORLD.carry.prod() ** 2)
PLAIN = {"reward_predictor": Terminal(), "advantage_estimator": Returns(gamma=1.0, per="none")}


class Raised(ToyJudge):
    """Adds a constant, which changes how noisy a gradient is but not its mean."""

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row, 0 on average."""
        return super().__call__(x0, prompts, step) + MEAN


def gradients(recipe: Recipe, shift, rows: int, batches: int = 40):
    """Return the gradient of each of several batches at a shift, `old` and `base` being there."""
    found = []
    for seed in range(batches):
        policy, rng = LinearPolicy(), torch.Generator().manual_seed(seed)
        for net in policy.nets.values():
            net.shift.data.copy_(shift)
        rollout = recipe.sampler(policy, ["fox"] * (rows // recipe.sampler.group), rng)
        rewards = recipe.reward_predictor(rollout, Raised())
        advantages, _ = recipe.advantage_estimator(rewards, rollout.prompts, Memory())
        for minibatch in recipe.update_scheduler(rollout.prompts, advantages, rng):
            out = recipe.loss(policy, gather(rollout, advantages, minibatch))
            (minibatch.weight * out.value).backward()
        found.append(policy.shift.grad)
    return torch.stack(found)


@dataclass(frozen=True)
class Case:
    """A recipe with plain rewards, and its expected gradient in units of the exact one's."""

    recipe: Recipe
    factor: float
    weights: torch.Tensor


USED = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
DECAY = USED * 0.99 ** torch.arange(STEPS)
PAIR = Ddim(steps=STEPS, group=2)
SHARED = Ddim(steps=STEPS, group=2, share_noise=True)
CASES = [
    Case(
        DDPO.but(
            sampler=Ddim(steps=STEPS),
            update_scheduler=RowsFirst(**SKIP),
            loss=ClippedRatio(),
            **PLAIN,
        ),
        -1 / (TRAINED * SIZE),
        USED,
    ),
    Case(
        SDPO.but(
            sampler=SHARED,
            update_scheduler=Pairs(order="steps-accumulated", **SKIP),
            loss=RewardDifference(decay=0.99),
            **PLAIN,
        ),
        -4 / (TRAINED * SIZE),
        DECAY,
    ),
    Case(
        REBEL.but(
            sampler=PAIR,
            update_scheduler=Pairs(order="trajectories", **SKIP),
            loss=RelativeReward(eta=0.5),
            **PLAIN,
        ),
        -4 / (0.5 * SIZE),
        USED,
    ),
    Case(
        PRDP_REBEL.but(
            sampler=SHARED, update_scheduler=Pairs(order="trajectories", **SKIP), **PLAIN
        ),
        -4 / SIZE,
        USED,
    ),
    Case(
        PRDP.but(
            sampler=Ddim(steps=STEPS, group=4),
            update_scheduler=Groups(**SKIP),
            loss=ProximalRelativeReward(beta=2.0),
            **PLAIN,
        ),
        -4 / (2.0 * SIZE),
        USED,
    ),
]


def assert_agrees(found, exact):
    """Within five standard errors in every component, and within 5 % of its length."""
    mean, error = found.mean(0), found.std(0) / len(found) ** 0.5
    assert ((mean - exact).abs() < 5 * error).all(), (mean / exact, error / exact.abs())
    assert (mean - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.recipe.name)
def test_the_gradient_is_the_exact_one_on_average(case):
    found = gradients(case.recipe, WHERE, rows=2000)
    assert_agrees(found, case.factor * WORLD.gradient(WHERE, case.weights))


def test_d3po_follows_the_gradient_of_the_win_rate():
    """E[sign(R_a - R_b) grad log p_a]; given its path, a final state's score is c e / variance."""
    beta, rng = 0.1, torch.Generator().manual_seed(1)
    recipe = D3PO.but(
        sampler=PAIR, update_scheduler=Pairs(order="steps-accumulated", **SKIP),
        loss=StepPreference(beta=beta), **PLAIN,
    )  # fmt: skip
    effect = WORLD.effect.sum()
    spread = (WORLD.noise**2 + WORLD.carry.prod() ** 2).sqrt()
    drawn = spread * torch.randn(2, 400_000, SIZE, generator=rng, dtype=torch.float64)
    score = -(drawn + effect * WHERE - WORLD.lacking).square().mean(2)
    won = (score[0] - score[1]).sign()
    win_rate = (won[:, None] * drawn[0]).mean(0) * (effect - WORLD.effect[-1]) / spread**2
    found = gradients(recipe, WHERE, rows=2000)
    assert_agrees(found, -beta / (TRAINED * SIZE) * win_rate)


SHORT = {"steps": 5}
RUNS = [
    (DDPO.but(
        sampler=Ddim(**SHORT), update_scheduler=RowsFirst(rows_per_update=16, **SKIP),
        loss=ClippedRatio(clip=0.1),
    ), 60, 0.05),
    (SDPO.but(
        sampler=Ddim(**SHORT, group=2, share_noise=True), update_scheduler=Pairs(**SKIP),
        loss=RewardDifference(clip=0.1),
    ), 60, 0.03),
    (REBEL.but(
        sampler=Ddim(**SHORT, group=2), loss=RelativeReward(eta=0.1),
        update_scheduler=Pairs(order="trajectories", per_update=16, **SKIP),
    ), 60, 0.05),
    (PRDP_REBEL.but(
        sampler=Ddim(**SHORT, group=2), loss=RelativeReward(eta=0.1, clip=0.1),
        update_scheduler=Pairs(order="trajectories", per_update=16, **SKIP),
    ), 60, 0.05),
    (D3PO.but(
        sampler=Ddim(**SHORT, group=2, share_noise=True), loss=StepPreference(clip=0.9),
        update_scheduler=Pairs(order="steps-accumulated", per_update=16, **SKIP),
    ), 60, 0.05),
]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "epochs", "rate"), RUNS, ids=lambda value: getattr(value, "name", "")
)
def test_the_optimum_is_reached(recipe, epochs, rate):
    """At least 95 % of all that the expected score can gain."""
    policy, world = LinearPolicy(), World(SHORT["steps"])
    text = ["fox"] * (64 // recipe.sampler.group)
    train(recipe, policy, ToyJudge(), text, epochs=epochs, learning_rate=rate)
    assert world.gained(policy.shift.detach()) > 0.95


@pytest.mark.parametrize("beta", [0.02, 0.2])
def test_prdp_stops_where_the_reward_and_the_distance_to_the_base_balance(beta):
    """There the exact gradient equals beta / D times that of the divergence from the base."""
    world, order = World(SHORT["steps"]), Groups(**SKIP)
    recipe = PRDP.but(
        sampler=Ddim(**SHORT, group=4), update_scheduler=order,
        loss=ProximalRelativeReward(beta=beta, clip=0.1),
    )  # fmt: skip
    policy = LinearPolicy()
    train(recipe, policy, ToyJudge(), ["fox"] * 32, epochs=150, learning_rate=0.02)
    trained = slice(None, -1)
    reach = world.effect[trained].sum()
    stiffness = (world.push[trained] / world.sigma[trained]).square().sum()
    balance = 2 * reach / (2 * world.effect.sum() * reach + beta * stiffness)
    wanted = balance * world.lacking
    assert (policy.shift.detach() - wanted).norm() < 0.1 * wanted.norm()

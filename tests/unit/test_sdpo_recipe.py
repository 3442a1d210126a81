"""SDPO as a whole, on the toy world."""

import subprocess
import sys

import pytest
import torch
from diffrl_sdpo import SDPO

from diffrl.testing.toy import TEXT, ToyJudge, ToyPolicy
from diffrl.types import Memory, gather


def test_the_recipe_fits():
    assert SDPO.problems() == []
    assert SDPO.sampler.steps == 50 and SDPO.reward_predictor.queries(50) == 3


def test_its_modules_load_without_torch():
    code = "import diffrl_sdpo, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_epoch_runs_with_any_number_of_steps(steps):
    recipe = SDPO.but(sampler=SDPO.sampler.model_copy(update={"steps": steps}))
    policy, rng = ToyPolicy(), torch.Generator().manual_seed(0)
    rollout = recipe.sampler(policy, TEXT, rng)
    rewards = recipe.reward_predictor(rollout, ToyJudge())
    advantages, memory = recipe.advantage_estimator(rewards, rollout.prompts, Memory())
    assert set(memory.history) == {(text, steps) for text in TEXT}
    updates = 0
    for minibatch in recipe.update_scheduler(rollout.prompts, advantages, rng):
        out = recipe.loss(policy, gather(rollout, advantages, minibatch))
        out.value.backward()
        assert out.metrics["clip_fraction"] == 0
        updates += minibatch.commit
    assert updates == steps
    # from shared noise, a single step predicts one clean picture for both rows: no signal
    moved = any(p.grad.abs().sum() > 0 for p in policy.parameters())
    assert moved == (steps > 1)

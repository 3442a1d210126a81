"""The terminal reward predictor on the toy world."""

import torch

from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.stages import Judge
from diffrl.testing.toy import TEXT, ToyPolicy


class Recorder(Judge):
    """Scores a latent by its mean and keeps what it was asked."""

    def each(self, x0, prompts, step):
        self.asked = (x0, prompts, step)
        return torch.stack([x0.flatten(1).mean(1) + 1, -torch.ones(len(x0))], 1)


def test_the_score_fills_the_last_column_only():
    for steps in (1, 4):
        rollout = Ddim(steps=steps)(ToyPolicy(), TEXT, torch.Generator())
        for decode, x0 in (("final", rollout.x0), ("predicted", rollout.path.x0_hat[:, -1])):
            judge = Recorder()
            rewards = Terminal(decode=decode)(rollout, judge)
            value = rewards.value
            assert torch.allclose(value[:, -1], x0.flatten(1).mean(1), atol=1e-6)
            assert torch.equal(rewards.each[:, 0], x0.flatten(1).mean(1) + 1)
            assert rewards.each[:, 1].eq(-1).all()
            assert value.shape == (4, steps) and value[:, :-1].eq(0).all()
            assert torch.equal(judge.asked[0], x0)
            assert judge.asked[2].tolist() == [steps - 1] * 4


def test_what_it_needs_depends_on_what_it_decodes():
    assert Terminal().needs == {"x0"}
    assert Terminal(decode="predicted").needs == {"x0_hat"}
    assert Terminal().queries(50) == 1

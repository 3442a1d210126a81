"""REBEL (arXiv:2404.16767) and PRDP (arXiv:2402.08714): regression on whole paths of a pair."""

import pytest
from diffrl_rebel import PRDP, PRDP_REBEL, REBEL, ProximalRelativeReward, RelativeReward

from diffrl.builtin.advantages import Returns
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs

TINY = {
    "sampler": Ddim(steps=5, group=8),
    "advantage_estimator": Returns(gamma=1.0, per="prompt"),
    "update_scheduler": Pairs(order="trajectories", per_update=4, skip_last=1),
}
RECIPES = [
    REBEL.but(**TINY, loss=RelativeReward(eta=0.1)),
    PRDP_REBEL.but(**TINY, loss=RelativeReward(eta=0.1, clip=0.1)),
    PRDP.but(**TINY, loss=ProximalRelativeReward(clip=0.1)),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_whole_path_regression_raises_the_toy_score(gain, recipe):
    assert gain(recipe, epochs=60, learning_rate=2e-3) > 0.3

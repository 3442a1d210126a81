"""REBEL (arXiv:2404.16767) and PRDP (arXiv:2402.08714): regression on whole paths of a pair."""

import pytest
from diffrl_rebel import PRDP, PRDP_REBEL, REBEL, ProximalRelativeReward, RelativeReward

from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Groups, Pairs

ORDER = {"order": "trajectories", "skip_last": 1}
TINY = {"sampler": Ddim(steps=5, group=8), "update_scheduler": Pairs(**ORDER, per_update=4)}
RECIPES = [
    REBEL.but(**TINY, loss=RelativeReward(eta=0.1)),
    PRDP_REBEL.but(**TINY, loss=RelativeReward(eta=0.1, clip=0.1)),
    PRDP.but(
        sampler=Ddim(steps=5, group=4),
        update_scheduler=Groups(skip_last=1, per_update=2),
        loss=ProximalRelativeReward(beta=0.1, clip=0.1),
    ),
]


def test_a_larger_beta_keeps_prdp_nearer_to_the_base_model(gain):
    """Over three seeds the toy score rose by 0.55 to 0.58 at beta 0.1, and 0.26 to 0.29 at 1."""
    tight = RECIPES[-1].but(loss=ProximalRelativeReward(beta=1.0, clip=0.1))
    assert 0.1 < gain(tight, epochs=60, learning_rate=2e-3) < 0.4


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_whole_path_regression_raises_the_toy_score(gain, recipe):
    assert gain(recipe, epochs=60, learning_rate=2e-3) > 0.3

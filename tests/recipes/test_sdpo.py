"""SDPO (arXiv:2411.11727): the shipped recipe, with few steps and a clip for eight dimensions.

The last step is left out. Its sigma of 0.03 makes its log-ratios so much larger than those of other
steps that, unlike LoRA's small steps on a real model, the toy's large ones are ruined by it.
"""

from diffrl_sdpo import SDPO, RewardDifference

from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs

TINY = SDPO.but(
    name="tiny-sdpo",
    sampler=Ddim(steps=5, group=2, share_noise=True),
    update_scheduler=Pairs(order="steps-shuffled", skip_last=1),
    loss=RewardDifference(clip=0.1),
)


def test_sdpo_raises_the_toy_score(gain):
    assert gain(TINY, epochs=60, learning_rate=2e-3) > 0.3

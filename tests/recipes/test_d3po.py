"""D3PO (arXiv:2311.13231): the preferred row of a pair, each step at a time, against the base."""

from diffrl_d3po import D3PO, StepPreference

from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs

TINY = D3PO.but(
    name="tiny-d3po",
    sampler=Ddim(steps=5, group=8, share_noise=True),
    update_scheduler=Pairs(order="steps-accumulated", per_update=4, skip_last=1),
    loss=StepPreference(beta=1.0, clip=0.3),
)


def test_d3po_raises_the_toy_score(gain):
    assert gain(TINY, epochs=30, learning_rate=5e-3) > 0.2

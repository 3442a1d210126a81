"""The KL divergence of an evaluation, whatever pieces it is drawn in."""

import pytest
import torch

from diffrl.kernels import Ddim
from diffrl.rollouts import rows_of
from diffrl.testing.toy import ToyPolicy
from diffrl.trainer.divergence import Moved
from diffrl.types import Path, Prompts, Rollout


class Shifted(ToyPolicy):
    """A policy whose live prediction is that of the base, more on later rows."""

    def predict(self, x, t, cond, weights="live"):
        return x + cond[:, :, None, None] * (weights == "live")


def drawn():
    kernel = Ddim(torch.linspace(0.999, 0.01, 1000), 2, 1.0)
    prompts = Prompts(tuple("abcdef"), torch.arange(6), torch.arange(6.0)[:, None])
    path = Path(kernel, torch.zeros(6, 2), torch.randn(6, 3, 1, 2, 2))
    return Rollout(prompts, torch.tensor([999.0, 499.0]), path.x[:, -1], path)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_pieces_do_not_change_it(size):
    whole, pieces, rollout = Moved(Shifted(), 5), Moved(Shifted(), 5), drawn()
    whole.add(rollout)
    for start in range(0, 6, size):
        pieces.add(rows_of(rollout, torch.arange(start, min(6, start + size))))
    assert whole.mean is not None and whole.mean > 0
    assert pieces.mean == pytest.approx(whole.mean, rel=1e-5)


def test_nothing_is_said_without_a_path():
    moved = Moved(Shifted(), 5)
    moved.add(Rollout(drawn().prompts, torch.tensor([999.0]), torch.zeros(6, 1, 2, 2)))
    assert moved.mean is None

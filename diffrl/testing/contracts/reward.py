"""What holds for every reward."""

from __future__ import annotations

import pytest
import torch

from diffrl.errors import CheckpointMissing
from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Tensor
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.same import untouched


class RewardContract(ComponentContract):
    """Tests of a reward; the subclass supplies `component`. Skipped where its weights are absent.

    Attributes:
        size: side of the test pictures.
    """

    size = 64

    @pytest.fixture
    def scorer(self, component: Reward) -> Scorer:
        """The loaded scorer."""
        try:
            return component.load("cpu")
        except CheckpointMissing as missing:
            pytest.skip(str(missing).splitlines()[0])

    @pytest.fixture
    def pictures(self) -> Float[Tensor, "b 3 h w"]:
        """Four random pictures in [0, 1], one per prompt."""
        rng = torch.Generator().manual_seed(0)
        return torch.rand(len(self.text), 3, self.size, self.size, generator=rng)

    def test_every_picture_gets_a_finite_score(self, scorer: Scorer, pictures: Tensor) -> None:
        """One number per picture."""
        scores = scorer(pictures, self.text)
        assert scores.shape == (len(pictures),)
        assert scores.is_floating_point() and scores.isfinite().all()

    def test_same_pictures_same_scores(self, scorer: Scorer, pictures: Tensor) -> None:
        """A reward has no randomness and changes no picture."""
        with untouched(pictures=pictures):
            first = scorer(pictures, self.text)
        assert torch.equal(first, scorer(pictures, self.text))

    def test_pictures_do_not_influence_each_other(
        self, component: Reward, scorer: Scorer, pictures: Tensor
    ) -> None:
        """They may be scored in chunks and in any order, but by a reward that compares them."""
        if getattr(scorer, "groupwise", component.groupwise):
            pytest.skip("compares pictures")
        whole, last = scorer(pictures, self.text), scorer(pictures[2:], self.text[2:])
        rounding = 1e-3 * float(whole.std()) + 1e-5 * float(whole.abs().max())
        assert torch.allclose(last, whole[2:], rtol=0, atol=rounding)

    def test_gradient_reaches_the_picture_if_it_says_so(
        self, component: Reward, scorer: Scorer, pictures: Tensor
    ) -> None:
        """Gradient predictors rely on `differentiable`."""
        scores = scorer(pictures.clone().requires_grad_(), self.text)
        if not getattr(scorer, "differentiable", component.differentiable):
            assert not scores.requires_grad
            return
        leaf = pictures.clone().requires_grad_()
        (grad,) = torch.autograd.grad(scorer(leaf, self.text).sum(), leaf)
        assert grad.isfinite().all() and grad.abs().max() > 0

    def test_scale_is_not_zero(self, component: Reward, scorer: Scorer) -> None:
        """It turns raw scores into the unit that papers print; what is loaded may have its own."""
        assert getattr(scorer, "scale", component.scale) != 0

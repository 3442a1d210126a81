import pytest
import torch

from diffrl.errors import RewardError
from diffrl.judge import WeightedJudge
from diffrl.scoring import ScoredBy
from diffrl.types import Prompts


def prompts(n):
    return Prompts(tuple("abcdef"[:n]), torch.arange(n), torch.zeros(n, 1, 1))


def brightness(images, text):
    return images.mean((1, 2, 3))


def length(images, text):
    return torch.tensor([float(len(t)) for t in text])


def test_rewards_are_summed_by_weight_and_booked_apart():
    judge = WeightedJudge(
        lambda x: x, [ScoredBy("bright", brightness, 2.0), ScoredBy("length", length, -1.0)], 2
    )
    x0 = torch.rand(5, 3, 4, 4)
    total = judge(x0, prompts(5), torch.tensor([0, 0, 3, 3, 3]))
    assert torch.allclose(total, 2 * x0.mean((1, 2, 3)) - 1)
    each = WeightedJudge(lambda x: x, judge._rewards, 2).each(x0, prompts(5), torch.arange(5))
    assert torch.allclose(each, torch.stack([2 * x0.mean((1, 2, 3)), -torch.ones(5)], 1))
    ledger = judge.drain()
    steps, scores = ledger.columns()
    assert steps.tolist() == [0, 0, 3, 3, 3]
    assert torch.allclose(scores["bright"], x0.mean((1, 2, 3)))
    assert scores["length"].tolist() == [1.0] * 5
    assert ledger.queries == 5
    assert judge.drain().queries == 0


def test_batch_size_does_not_change_scores():
    x0 = torch.rand(7, 3, 4, 4)
    one, many = (
        WeightedJudge(lambda x: x, [ScoredBy("bright", brightness)], size) for size in (1, 16)
    )
    step = torch.zeros(7, dtype=torch.int64)
    assert torch.allclose(
        one(x0, prompts(6).pick([0] * 7), step), many(x0, prompts(6).pick([0] * 7), step)
    )


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (lambda images, text: torch.zeros(len(images), 2), "gave shape"),
        (lambda images, text: torch.full((len(images),), torch.nan), "not finite"),
    ],
)
def test_a_reward_that_breaks_its_promise_is_named(scorer, message):
    judge = WeightedJudge(lambda x: x, [ScoredBy("odd", scorer)])
    with pytest.raises(RewardError, match=f"'odd' gave.*{message.split()[-1]}"):
        judge(torch.rand(2, 3, 4, 4), prompts(2), torch.zeros(2, dtype=torch.int64))


def test_gradient_is_that_of_the_weighted_sum():
    judge = WeightedJudge(
        lambda x: 3 * x, [ScoredBy("bright", brightness, 2.0, differentiable=True)], batch=2
    )
    value, grad = judge.grad(torch.rand(3, 3, 2, 2) / 3, prompts(3), torch.full((3,), 7))
    assert value.shape == (3,)
    assert torch.allclose(grad, torch.full_like(grad, 2 * 3 / 12))


def test_a_reward_without_gradient_is_refused():
    judge = WeightedJudge(lambda x: x, [ScoredBy("blind", brightness)])
    with pytest.raises(RewardError, match="blind: not differentiable"):
        judge.grad(torch.rand(1, 3, 2, 2), prompts(1), torch.zeros(1, dtype=torch.long))


def test_scores_are_not_rounded_to_what_latents_are_kept_in():
    judge = WeightedJudge(lambda x: x.float(), [ScoredBy("fine", fine, differentiable=True)], 8)
    x0, step = torch.rand(2, 3, 2, 2).bfloat16(), torch.zeros(2, dtype=torch.int64)
    for scores in (judge(x0, prompts(2), step), judge.grad(x0, prompts(2), step)[0]):
        assert torch.equal(scores, torch.tensor([0.2, 0.2001]))


def fine(images, text):
    return torch.tensor([0.2, 0.2001]) + 0 * images.mean((1, 2, 3))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_pictures_without_scores_are_left_out_whatever_comes_with_them(batch):
    def squeamish(images, text):
        if "a" in text or "b" in text:
            raise ValueError("not that")
        return brightness(images, text)

    judge = WeightedJudge(lambda x: x, [ScoredBy("s", squeamish)], batch, drop=True)
    assert judge.why == ""
    scores = judge(torch.rand(4, 3, 2, 2), prompts(4), torch.arange(4))
    assert scores.isnan().tolist() == [True, True, False, False]
    assert "reward 's' failed for prompt 'b'" in judge.why and "not that" in judge.why


def root(images, text):
    if "a" in text:
        raise ValueError("not that")
    bright = images.mean((1, 2, 3))
    return torch.where(bright < 1, bright, torch.nan) + (bright - 0.5).abs().sqrt()


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_pictures_without_scores_or_gradients_are_left_out(batch):
    """Of five: one fails, one has no score, and one no gradient."""
    x0 = torch.tensor([0.1, 0.2, 1.0, 0.5, 0.6])[:, None, None, None].expand(5, 3, 1, 1)
    step, rewards = torch.arange(5), [ScoredBy("root", root, 2.0, differentiable=True)]
    value, grad = WeightedJudge(lambda x: x, rewards, batch, drop=True).grad(x0, prompts(5), step)
    bad = [True, False, True, True, False]
    assert value.isnan().tolist() == bad and not value.requires_grad
    assert grad.isfinite().all() and (grad == 0).flatten(1).all(1).tolist() == bad
    two = WeightedJudge(lambda x: x, rewards)
    _, alone = two.grad(x0[[1, 4]], prompts(5).pick([1, 4]), step[:2])
    torch.testing.assert_close(grad[[1, 4]], alone)
    with pytest.raises(RewardError, match=r"root is not finite for prompt 'd' at denoising step 3"):
        two.grad(x0[3:], prompts(5).pick([3, 4]), step[3:])

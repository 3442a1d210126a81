"""The dense reward, apart from the published numbers in the parity tests."""

from dataclasses import replace

import pytest
import torch
from diffrl_sdpo.anchors import Anchors, by_position, by_similarity, similarities

from diffrl.builtin.samplers import Ddim
from diffrl.stages import Judge
from diffrl.testing.toy import TEXT, ToyPolicy
from diffrl.types import Path, Prompts, Rollout


class Recorder(Judge):
    """Scores a latent by its mean, and keeps each call."""

    def __init__(self):
        self.calls = []

    def __call__(self, x0, prompts, step):
        self.calls.append((x0, prompts, step))
        return x0.flatten(1).mean(1)


def rollout(steps):
    sampler = Ddim(steps=steps, group=2, share_noise=True)
    return sampler(ToyPolicy(), TEXT, torch.Generator().manual_seed(0))


def ask(anchors, steps):
    drawn, judge = rollout(steps), Recorder()
    return drawn, anchors(drawn, judge).value, judge


def own_scores(drawn):
    return drawn.path.x0_hat.flatten(2).mean(2)


@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_one_call_scores_at_most_three_pictures_of_a_row(steps):
    drawn, value, judge = ask(Anchors(), steps)
    ((x0, prompts, step),) = judge.calls
    assert value.shape == (8, steps) and value.isfinite().all()
    assert len(x0) == len(prompts) == len(step) <= 8 * Anchors().queries(steps)
    torch.testing.assert_close(value[:, [0, -1]], own_scores(drawn)[:, [0, -1]])


def test_a_single_step_takes_one_query_and_gives_its_score():
    drawn, value, judge = ask(Anchors(), 1)
    assert len(judge.calls[0][0]) == 8 and Anchors().queries(1) == 1
    assert torch.equal(value, own_scores(drawn))


def test_pictures_reach_the_judge_with_their_own_prompt_and_step():
    drawn, _, judge = ask(Anchors(), 6)
    x0, prompts, step = judge.calls[0]
    for one, text, k in zip(x0, prompts.text, step.tolist(), strict=True):
        same = (drawn.path.x0_hat[:, k] == one).flatten(1).all(1).nonzero().flatten()
        assert text in {drawn.prompts.text[row] for row in same.tolist()}


def test_no_picture_is_scored_twice():
    _, _, judge = ask(Anchors(anchor="fixed", fixed_step=0), 6)
    assert len(judge.calls[0][0]) == 2 * 8


def test_queried_steps_keep_their_scores_and_the_anchor_wins():
    score = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    at = torch.tensor([[0, 2, 3], [0, 0, 3], [0, 3, 3]])
    got = by_similarity(score, torch.rand(3, 3, 4), at)
    assert got[0, [0, 2, 3]].tolist() == [1, 2, 3]
    assert got[1, [0, 3]].tolist() == [5, 6]
    assert got[2, [0, 3]].tolist() == [7, 8]


def test_equal_scores_spread_to_that_score():
    got = by_similarity(
        torch.full((4, 3), 2.5), torch.rand(4, 3, 9), torch.tensor([[0, 4, 8]]).expand(4, -1)
    )
    torch.testing.assert_close(got, torch.full((4, 9), 2.5))


def test_similarity_survives_a_zero_latent():
    x0_hat = torch.zeros(1, 3, 4, 2, 2)
    assert similarities(x0_hat, torch.tensor([[0, 2]])).eq(0).all()


def test_the_lowest_step_wins_a_tie():
    alike = predicting(torch.ones_like(rollout(5).path.x0_hat))
    assert Anchors()._anchor(alike).eq(0).all()
    assert Anchors(anchor_range="interior")._anchor(alike).eq(1).all()


def test_rounding_does_not_choose_between_the_ends():
    """Both ends have the same sum by definition; where it is the least, the first one wins."""
    ends = torch.randn(2, 400, 16, generator=torch.Generator().manual_seed(0))
    share = torch.linspace(0, 1, 5)[:, None, None]
    path = (1 - share) * ends[0] + share * ends[1]
    rows = path.transpose(0, 1).reshape(400, 5, 4, 2, 2)
    sums = similarities(rows, torch.tensor([0, 4]).expand(400, -1)).sum(1)
    assert sums.argmin(1).unique().tolist() == [0, 4]  # what rounding would choose
    assert Anchors()._anchor(predicting(rows)).eq(0).all()


def test_the_adaptive_anchor_is_least_similar_to_both_ends():
    axes = torch.eye(4).reshape(4, 4, 1, 1)
    path = torch.stack([axes[0], axes[0] + axes[1], axes[2], axes[1] + axes[0], axes[1]])
    assert Anchors()._anchor(predicting(path[None])).tolist() == [2]


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
@pytest.mark.parametrize("anchor", ["adaptive", "random", "fixed"])
def test_interior_anchors_leave_out_both_ends(steps, anchor):
    found = Anchors(anchor=anchor, anchor_range="interior")._anchor(rollout(steps))
    assert found.shape == (8,) and (0 <= found).all() and (found < steps).all()
    if steps > 2:
        assert (found > 0).all() and (found < steps - 1).all()


def test_random_anchors_follow_from_the_drawn_noise_alone():
    anchors, drawn = Anchors(anchor="random"), rollout(30)
    first, again = (ask(anchors, 30)[1] for _ in range(2))
    assert torch.equal(first, again)
    found = anchors._anchor(drawn)
    assert len(set(found.tolist())) > 1
    rounded = replace(drawn, path=replace(drawn.path, x0_hat=drawn.path.x0_hat + 1e-6))
    assert torch.equal(anchors._anchor(rounded), found)
    alone = torch.cat([anchors._anchor(part(drawn, i, i + 2)) for i in range(0, 8, 2)])
    assert torch.equal(alone, found)  # whatever batch a group is in


@pytest.mark.parametrize("steps", [2, 4, 8, 5])
def test_random_anchors_of_rows_that_share_their_noise_are_independent(steps):
    sampler = Ddim(steps=steps, group=2, share_noise=True)
    drawn = sampler(ToyPolicy(), TEXT * 200, torch.Generator().manual_seed(0))
    first, second = Anchors(anchor="random")._anchor(drawn).view(-1, 2).unbind(1)
    met = torch.bincount(first * steps + second, minlength=steps**2).float()
    expected = len(first) / steps**2
    freedom = steps**2 - 1
    chi_squared = float((met - expected).square().sum() / expected)
    assert abs(chi_squared - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("spread", ["similarity", "linear"])
@pytest.mark.parametrize("anchor", ["adaptive", "random", "fixed"])
def test_of_predictions_that_are_not_finite_the_judge_is_asked_all_the_same(anchor, spread):
    drawn = rollout(5)
    x0_hat = drawn.path.x0_hat.clone()
    x0_hat[2, 2:] = float("nan")
    judge = Recorder()
    broken = replace(drawn, path=replace(drawn.path, x0_hat=x0_hat))
    value = Anchors(anchor=anchor, spread=spread)(broken, judge).value
    assert value[2].isnan().any() and value[[0, 1, 3]].isfinite().all()
    ((x0, _, step),) = judge.calls
    assert x0.isnan().any() and (step < 5).all()


def part(drawn, start, end):
    """Return some rows of a rollout."""
    tensors = {n: getattr(drawn.path, n)[start:end] for n in ("log_prob", "x", "x0_hat")}
    rows = drawn.prompts.pick(list(range(start, end)))
    return Rollout(rows, drawn.times, drawn.x0[start:end], replace(drawn.path, **tensors))


def predicting(x0_hat):
    """Return a rollout that predicts these clean states."""
    n, steps = x0_hat.shape[:2]
    x = torch.cat([x0_hat, x0_hat[:, -1:]], 1)
    prompts = Prompts(("a",) * n, torch.zeros(n).long(), torch.zeros(n, 1))
    path = Path(rollout(1).path.kernel, torch.zeros(n, steps), x, x0_hat)
    return Rollout(prompts, torch.linspace(999, 0, steps), x[:, -1], path)


def test_a_fixed_anchor_beyond_the_last_step_is_the_last():
    late, middle = Anchors(anchor="fixed", fixed_step=24), Anchors(anchor="fixed")
    assert late._anchor(rollout(4)).tolist() == [3] * 8
    assert middle._anchor(rollout(4)).tolist() == [1] * 8
    assert middle._anchor(rollout(50)).tolist() == [24] * 8


@pytest.mark.parametrize(("query", "count"), [("first-last", 2), ("last", 1), ("every", 6)])
def test_other_queries(query, count):
    drawn, value, judge = ask(Anchors(query=query), 6)
    assert len(judge.calls[0][0]) == 8 * count == 8 * Anchors(query=query).queries(6)
    own = own_scores(drawn)
    torch.testing.assert_close(value[:, -1], own[:, -1])
    if query == "every":
        torch.testing.assert_close(value, own)
    if query == "last":
        assert torch.equal(value, value[:, -1:].expand(-1, 6))


def test_scores_can_be_spread_by_position():
    score, at = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[0, 2, 4]])
    assert by_position(score, at, 5).tolist() == [[1, 2, 3, 2.5, 2]]
    score, at = torch.tensor([[1.0, 1.0, 3.0]]), torch.tensor([[0, 0, 4]])
    assert by_position(score, at, 5).tolist() == [[1, 1.5, 2, 2.5, 3]]
    _, value, _ = ask(Anchors(query="first-last", spread="linear"), 3)
    torch.testing.assert_close(value[:, 1], value[:, [0, 2]].mean(1))
    assert ask(Anchors(spread="linear"), 1)[1].shape == (8, 1)


def test_the_rollout_is_not_changed():
    drawn = rollout(5)
    before = drawn.path.x0_hat.clone()
    Anchors()(drawn, Recorder())
    assert torch.equal(drawn.path.x0_hat, before)

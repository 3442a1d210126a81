"""Rewards that break their promises, and rewards that compare."""

from importlib import import_module
from typing import ClassVar

import pytest
import torch

from diffrl.errors import RewardError, RewardUnreachable
from diffrl.judge import WeightedJudge
from diffrl.scoring import ScoredBy, checked, finite_or_nan
from diffrl.stages import Reward
from diffrl.types import Prompts


def brightness(images, text):
    return images.mean((1, 2, 3))


def prompts(*text, group=1):
    every = tuple(t for t in text for _ in range(group))
    numbers = torch.arange(len(text)).repeat_interleave(group)
    return Prompts(every, numbers, torch.zeros(len(every), 1, 1))


def test_a_message_names_reward_prompt_and_step():
    def odd(images, text):
        return torch.tensor([1.0, float("inf"), float("nan")])

    with pytest.raises(RewardError) as stopped:
        checked(
            ScoredBy("odd", odd), torch.rand(3, 3, 2, 2), ["a", "b", "c"], torch.tensor([0, 3, 1])
        )
    assert str(stopped.value) == (
        "reward 'odd' gave 2 score(s) that are not finite, first inf for prompt 'b' at denoising "
        "step 3"
    )


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_pictures_out_of_range_are_refused(wrong):
    images = torch.rand(2, 3, 2, 2)
    images[1, 0, 0, 0] = wrong
    expected = r"'bright' was handed a picture for prompt 'b' in \[.*expected \[0, 1\]"
    with pytest.raises(RewardError, match=expected):
        checked(ScoredBy("bright", brightness), images, ["a", "b"])


def test_an_error_inside_a_reward_is_told_in_one_line():
    def failing(images, text):
        raise KeyError("gone\naway")

    with pytest.raises(RewardError) as stopped:
        checked(ScoredBy("failing", failing), torch.rand(1, 3, 2, 2), ["a"])
    assert "\n" not in str(stopped.value)
    assert "'failing' failed for prompt 'a' (KeyError" in str(stopped.value)
    assert isinstance(stopped.value.__cause__, KeyError)


@pytest.mark.parametrize("given", [[1.0], torch.zeros(1), torch.zeros(2, 1), "ab"])
def test_wrong_counts_are_refused_even_where_bad_scores_are_dropped(given):
    for check in (checked, finite_or_nan):
        with pytest.raises(RewardError, match="for 2 pictures, first prompt 'a'; expected one"):
            check(ScoredBy("odd", lambda images, text: given), torch.rand(2, 3, 2, 2), ["a", "b"])


def test_pictures_that_a_reward_fails_for_are_found_one_by_one():
    def squeamish(images, text):
        if "spider" in text:
            raise ValueError("not that")
        return brightness(images, text)

    images = torch.rand(4, 3, 2, 2)
    scores = finite_or_nan(ScoredBy("s", squeamish), images, ["a", "spider", "b", "c"])
    assert scores.isnan().tolist() == [False, True, False, False]
    assert torch.equal(scores[[0, 2, 3]], brightness(images, "")[[0, 2, 3]])
    failures = {}
    none = finite_or_nan(ScoredBy("s", squeamish), images, ["spider"] * 4, failures=failures)
    assert none.isnan().all() and "not that" in failures["s"]


def test_a_reward_that_compares_is_never_asked_for_single_pictures():
    def rank(images, text):
        if len(images) > 1:
            raise ValueError("no")
        return images.mean((1, 2, 3))

    ranked = ScoredBy("rank", rank, groupwise=True)
    assert finite_or_nan(ranked, torch.rand(3, 3, 2, 2), ["a"] * 3).isnan().all()
    judge = WeightedJudge(lambda x: x, [ScoredBy("r", rank, differentiable=True, groupwise=True)])
    with pytest.raises(RewardError, match="they compare pictures"):
        judge.grad(torch.rand(2, 3, 2, 2), prompts("a", group=2), torch.zeros(2).long())


def test_a_silent_server_is_no_fault_of_a_picture():
    def silent(images, text):
        raise RewardUnreachable("reward server http://there: no answer")

    with pytest.raises(RewardUnreachable, match="reward 'far': reward server http://there"):
        finite_or_nan(ScoredBy("far", silent), torch.rand(2, 3, 2, 2), ["a", "b"])


def test_where_lower_is_better_training_lowers_the_score():
    judge = WeightedJudge(lambda x: x, [ScoredBy("dark", brightness, 2.0, higher_is_better=False)])
    x0 = torch.rand(3, 3, 2, 2)
    assert torch.allclose(
        judge(x0, prompts("a", "b", "c"), torch.zeros(3).long()), -2 * x0.mean((1, 2, 3))
    )
    assert (judge.drain().scores["dark"][0] > 0).all()  # logged as the reward gave it


def test_a_reward_that_compares_sees_all_pictures_of_a_group_and_step_at_once():
    seen = []

    def rank(images, text):
        seen.append((len(images), set(text)))
        return brightness(images, text).argsort().argsort().float()

    judge = WeightedJudge(
        lambda x: x, [ScoredBy("rank", rank, groupwise=True), ScoredBy("b", brightness)], batch=3
    )
    x0 = torch.rand(8, 3, 2, 2)
    step = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).roll(2)
    total = judge.each(x0, prompts("cat", "dog", group=4), step)
    assert sorted(seen, key=str) == [(2, {"cat"}), (2, {"cat"}), (2, {"dog"}), (2, {"dog"})]
    for rows in ([0, 1], [2, 3], [4, 5], [6, 7]):
        assert sorted(total[rows, 0].tolist()) == [0.0, 1.0]
        assert total[rows, 0].argmax() == total[rows, 1].argmax()


def test_a_reward_may_change_its_pictures_and_give_an_array():
    def spoils(images, text):
        images *= 0.5
        return images.mean((1, 2, 3)).numpy()

    images = torch.rand(3, 3, 2, 2)
    before = images.clone()
    score = checked(ScoredBy("spoils", spoils), images, ["a", "b", "c"])
    assert torch.equal(images, before)
    assert torch.allclose(score, before.mean((1, 2, 3)) / 2)


class Odd(Reward):
    """A reward for tests."""

    name: ClassVar[str] = "odd"

    def load(self, device):
        """Fail as a package does that is not there."""
        return import_module("a_package_that_nobody_has")


class Unscaled(Odd):
    """Another."""

    scale: ClassVar[float] = float("nan")

    def load(self, device):
        """Return a scorer."""
        return brightness


class Gone(Odd):
    """A third."""

    def load(self, device):
        """Fail as a missing file does."""
        raise FileNotFoundError("no head.pt")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (Gone(), r"reward 'odd' cannot be loaded \(FileNotFoundError: no head.pt\)"),
        (Odd(), r"reward 'odd' cannot be loaded \(ModuleNotFoundError: .*a_package"),
        (Unscaled(), "reward 'odd': its scale is nan, expected a number other than 0"),
    ],
)
def test_a_reward_that_cannot_be_loaded_is_named(reward, said):
    with pytest.raises(RewardError, match=said):
        ScoredBy.load(reward, "cpu", 1.0)

"""Intervals against cases whose answer is known."""

import math

import numpy
import pytest

from diffrl.evidence.intervals import between_runs, difference, estimate, wins

PROMPTS = [f"prompt {i}" for i in range(20)]


def test_pictures_of_one_prompt_do_not_count_as_independent():
    rng = numpy.random.default_rng(0)
    own = rng.normal(size=20)
    one = estimate(own.tolist(), PROMPTS)
    copied = estimate(numpy.repeat(own, 9).tolist(), list(numpy.repeat(PROMPTS, 9)))
    assert copied.mean == pytest.approx(one.mean)
    assert copied.high - copied.low == pytest.approx(one.high - one.low, rel=0.05)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 8, 20])
def test_the_interval_of_a_mean_covers_it_as_often_as_it_says(count):
    rng = numpy.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = estimate(rng.normal(size=count).tolist(), PROMPTS[:count])
        hits += found.low <= 0 <= found.high
    assert 0.9 <= hits / 200 <= 0.99


def test_few_prompts_are_not_resampled_but_their_pictures():
    found = estimate([1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"])
    reach = 3.182446 * numpy.std([1, 2, 3, 4], ddof=1) / 2  # t of 3 degrees of freedom
    assert found.units == 4
    assert (found.low, found.high) == pytest.approx((2.5 - reach, 2.5 + reach))
    assert estimate([1.0] * 16, PROMPTS[:8] * 2).units == 8


def test_of_very_few_pictures_nothing_is_distinguishable():
    ones, twos = [1.0, 1.1, 1.2, 1.1, 1.0], [2.0, 2.1, 2.2, 2.1, 2.0]
    assert difference(ones, twos, list("abcde"))[1] == "not distinguishable"
    assert difference([*ones, 1.0], [*twos, 2.1], list("abcdef"))[1] == "higher"


def test_pictures_without_a_value_are_left_out():
    found = estimate([1.0, math.nan, 3.0], ["a", "b", "c"])
    assert (found.mean, found.count) == (2.0, 2)
    with pytest.raises(ValueError, match="no picture"):
        estimate([math.nan], ["a"])


def test_a_paired_difference_sees_what_means_do_not():
    rng = numpy.random.default_rng(2)
    one = (100 * rng.normal(size=20)).tolist()
    other = [v + 1 + 0.1 * e for v, e in zip(one, rng.normal(size=20), strict=True)]
    found, said = difference(one, other, PROMPTS)
    assert said == "higher" and found.mean == pytest.approx(1.0, abs=0.1)
    assert difference(other, one, PROMPTS)[1] == "lower"
    assert difference(one, one, PROMPTS)[1] == "not distinguishable"


def test_runs_are_the_units_where_there_are_several():
    flat = [[0.0] * 50, [1.0] * 50, [2.0] * 50]
    above = [[1.2] * 50, [2.2] * 50, [0.2] * 50]
    found, said = between_runs(flat, above)
    assert found.mean == pytest.approx(0.2) and said == "not distinguishable"
    assert between_runs(flat, [[v + 9 for v in run] for run in flat])[1] == "higher"
    found, said = between_runs(flat[:1] * 2, flat[1:2] * 2)  # two that happen to agree
    assert found.mean == 1.0 and math.isnan(found.low) and said == "not distinguishable"


def test_runs_that_all_began_alike_have_no_variance():
    """What Welch's t then gives is the interval of the other side's mean."""
    before, after = [[0.1, 0.3]] * 3, [[1.0, 1.2], [1.3, 1.1], [1.6, 1.4]]
    found, said = between_runs(before, after)
    means = [1.1, 1.2, 1.5]
    reach = 4.302653 * numpy.std(means, ddof=1) / 3**0.5  # t of 2 degrees of freedom
    assert said == "higher" and found.mean == pytest.approx(numpy.mean(means) - 0.2)
    assert (found.low, found.high) == pytest.approx((found.mean - reach, found.mean + reach))


@pytest.mark.parametrize("shift", [0.0, 1.0, 0.1])
def test_pictures_that_all_agree_have_no_interval_and_tell_nothing(shift):
    found = estimate([100.0] * 20, PROMPTS)
    assert (found.mean, found.std) == (100.0, 0.0)
    assert math.isnan(found.low) and math.isnan(found.high)
    values = [v / 7 for v in range(20)]
    change, said = difference(values, [v + shift for v in values], PROMPTS)  # but for rounding
    assert change.mean == pytest.approx(shift) and math.isnan(change.low)
    assert said == "not distinguishable"


def test_a_side_that_wins_all_has_the_exact_interval_of_a_share():
    from scipy.stats import binomtest

    exact = binomtest(20, 20).proportion_ci(0.95, "exact")
    worse, better = [0.0] * 20, [1.0 + i for i in range(20)]
    found = wins(worse, better, PROMPTS, True)
    assert (found.low, found.high) == pytest.approx((100 * exact.low, 100 * exact.high))
    found = wins(worse, better, PROMPTS, False)
    assert (found.low, found.high) == pytest.approx((0.0, 100 - 100 * exact.low))
    assert math.isnan(wins(worse, worse, PROMPTS, True).low)  # all ties
    assert math.isnan(wins([0.0], [1.0], ["a"], True).low)


@pytest.mark.parametrize(("higher_is_better", "share"), [(True, 62.5), (False, 37.5)])
def test_a_tie_is_half_a_win(higher_is_better, share):
    found = wins([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, -1.0], list("abcd"), higher_is_better)
    assert found.mean == share

"""Which rows and steps are trained when; no model is needed."""

import pytest
import torch

from diffrl.builtin.indices import neighbours
from diffrl.builtin.update_schedulers import Groups, Pairs, RowsFirst
from diffrl.errors import FitError
from diffrl.types import Advantages, Prompts


def order(scheduler, groups=4, size=2, steps=5, seed=0):
    n = groups * size
    group = torch.arange(groups).repeat_interleave(size)
    prompts = Prompts(("a",) * n, group, torch.zeros(n, 1))
    rng = torch.Generator().manual_seed(seed)
    return list(scheduler(prompts, Advantages(torch.zeros(n, steps)), rng))


def visited(minibatches):
    """Return (row, step) of everything that is trained."""
    return [
        (row, step)
        for mb in minibatches
        for rows, steps in zip(mb.rows.tolist(), mb.steps.tolist(), strict=True)
        for row in rows
        for step in steps
    ]


def test_every_row_is_trained_once_at_every_step():
    orders = [Pairs(order=name) for name in ("steps-in-order", "steps-accumulated", "trajectories")]
    for scheduler in (Pairs(), Pairs(per_update=3), *orders, RowsFirst()):
        seen = visited(order(scheduler))
        assert sorted(seen) == [(row, step) for row in range(8) for step in range(5)]


@pytest.mark.parametrize(("per_update", "updates"), [(0, 1), (4, 1), (2, 2), (1, 4)])
def test_optimizer_steps_are_steps_times_pairs_over_pairs_per_update(per_update, updates):
    got = order(Pairs(per_update=per_update))
    assert len(got) == 5 * updates
    assert all(mb.commit and mb.weight == 1 for mb in got)


def test_accumulated_pairs_finish_their_steps_before_the_optimizer_steps():
    got = order(Pairs(order="steps-accumulated", per_update=2))
    assert [mb.commit for mb in got] == 2 * [False, False, False, False, True]
    assert all(mb.steps.shape == (2, 1) and abs(mb.weight - 1 / 5) < 1e-12 for mb in got)
    assert all(torch.equal(mb.rows, got[0].rows) for mb in got[:5])
    assert Pairs(order="steps-accumulated").commits_once
    assert not Pairs(order="steps-accumulated", per_update=2).commits_once


def test_all_pairs_of_each_group_are_compared_once():
    got = order(Pairs(choose="all"), groups=2, size=4, steps=1)
    pairs = sorted(tuple(pair) for mb in got for pair in mb.rows.tolist())
    assert pairs == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3),
                     (4, 5), (4, 6), (4, 7), (5, 6), (5, 7), (6, 7)]  # fmt: skip


@pytest.mark.parametrize("kind", [Pairs, RowsFirst])
def test_steps_in_order_go_from_first_to_last_and_a_share_of_them_is_random(kind):
    whole = order(kind(order="steps-in-order"))
    assert [mb.steps.unique().tolist() for mb in whole] == [[0], [1], [2], [3], [4]]
    assert all(mb.commit for mb in whole)
    some = order(kind(order="steps-in-order", timestep_fraction=0.6), groups=40)
    taken = torch.cat([mb.steps for mb in some], 1)
    assert taken.shape[1] == 3 and set(taken.flatten().tolist()) == {0, 1, 2, 3, 4}
    for minibatches in (whole, some):
        steps_of = {}
        for row, step in visited(minibatches):
            steps_of.setdefault(row, []).append(step)
        assert all(steps == sorted(set(steps)) for steps in steps_of.values())


def test_rows_can_be_trained_a_shuffled_column_at_a_time():
    got = order(RowsFirst(order="steps-shuffled", rows_per_update=4))
    assert len(got) == 5 * 2 and all(mb.commit and mb.weight == 1 for mb in got)
    assert sorted(visited(got)) == [(row, step) for row in range(8) for step in range(5)]
    assert len(got[0].steps.unique()) > 1
    assert not RowsFirst(order="steps-shuffled").commits_once and RowsFirst().commits_once


def test_groups_are_handed_over_whole_with_all_their_steps():
    got = order(Groups(per_update=1, skip_last=1), groups=3, size=4, steps=5)
    assert all(mb.commit and mb.rows.shape == (1, 4) for mb in got)
    assert sorted(mb.rows[0].tolist() for mb in got) == [
        [4 * i + j for j in range(4)] for i in range(3)
    ]
    assert all(mb.steps.tolist() == [[0, 1, 2, 3]] for mb in got)
    assert Groups().commits_once and not Groups(per_update=1).commits_once


def test_groups_of_different_sizes_or_single_rows_are_refused():
    for sizes, message in (([2, 3], "2 to 3 rows"), ([1, 1], "no group has 2 rows")):
        group = torch.tensor([g for g, size in enumerate(sizes) for _ in range(size)])
        prompts = Prompts(("a",) * len(group), group, torch.zeros(len(group), 1))
        advantages = Advantages(torch.zeros(len(group), 2))
        with pytest.raises(FitError, match=message):
            list(Groups()(prompts, advantages, torch.Generator()))


def test_an_uneven_split_is_as_even_as_possible():
    got = order(Pairs(per_update=3), groups=8, steps=1)
    assert sorted(len(mb.rows) for mb in got) == [2, 3, 3]
    assert [len(mb.rows) for mb in order(Pairs(per_update=9), groups=8, steps=1)] == [8]


def test_columns_are_the_outer_loop_and_pairs_the_inner():
    got = order(Pairs(per_update=2))
    for column in range(5):
        rows = torch.cat([mb.rows for mb in got[2 * column : 2 * column + 2]])
        assert sorted(rows.flatten().tolist()) == list(range(8))
    assert torch.equal(got[0].rows, got[2].rows)


def test_pairs_of_one_update_are_at_steps_of_their_own():
    (first, *_) = order(Pairs(), groups=32, steps=50)
    assert len(set(first.steps.flatten().tolist())) > 10
    assert first.rows.shape == (32, 2) and first.steps.shape == (32, 1)


def test_pairs_are_two_rows_of_one_group():
    for mb in order(Pairs(), groups=3, size=4):
        assert all(a + 1 == b and a % 2 == 0 for a, b in mb.rows.tolist())
    group = torch.tensor([7, 7, 7, 2, 2, 5])
    assert neighbours(group, 2).tolist() == [[0, 1], [3, 4]]
    with pytest.raises(FitError, match=r"sampler\.group"):
        order(Pairs(), size=1)


def test_steps_in_order_are_not_permuted():
    got = order(Pairs(order="steps-in-order"))
    assert [mb.steps.flatten().tolist() for mb in got] == [[k] * 4 for k in range(5)]


def test_trajectories_hand_over_all_steps_in_one_update():
    got = order(Pairs(order="trajectories", per_update=2))
    assert [tuple(mb.steps.shape) for mb in got] == [(2, 5), (2, 5)]
    assert Pairs(order="trajectories").commits_once
    assert not Pairs(order="trajectories", per_update=2).commits_once and not Pairs().commits_once


@pytest.mark.parametrize("scheduler", [Pairs, RowsFirst])
def test_last_steps_can_be_left_out(scheduler):
    some = scheduler(skip_last=2)
    assert {step for _, step in visited(order(some))} == {0, 1, 2}
    assert some.trained(5) == 3 and some.trained(2) == 0
    assert scheduler().trained(1) == 1


@pytest.mark.parametrize("scheduler", [Pairs, RowsFirst])
def test_a_fraction_of_the_permuted_steps_can_be_trained(scheduler):
    some = scheduler(timestep_fraction=0.5)
    seen = visited(order(some, groups=64))
    assert len(seen) == 128 * 2 and {step for _, step in seen} == {0, 1, 2, 3, 4}
    assert some.trained(5) == 2 and some.trained(1) == 1


@pytest.mark.parametrize("scheduler", [Pairs, RowsFirst])
def test_inner_epochs_repeat_with_another_order(scheduler):
    got = order(scheduler(inner_epochs=2), groups=16)
    half = len(got) // 2
    assert sorted(visited(got[:half])) == sorted(visited(got[half:]))
    assert not torch.equal(got[0].rows, got[half].rows)


@pytest.mark.parametrize("scheduler", [Pairs(per_update=3), RowsFirst(rows_per_update=3)])
def test_the_same_seed_gives_the_same_order(scheduler):
    assert visited(order(scheduler)) == visited(order(scheduler))
    assert visited(order(scheduler)) != visited(order(scheduler, seed=1))


@pytest.mark.parametrize(("rows", "updates"), [(0, 1), (4, 2), (3, 3)])
def test_rows_first_steps_the_optimizer_after_all_steps_of_its_rows(rows, updates):
    got = order(RowsFirst(rows_per_update=rows))
    assert [mb.commit for mb in got] == [False, False, False, False, True] * updates
    for first in range(0, len(got), 5):
        update = got[first : first + 5]
        assert all(torch.equal(mb.rows, update[0].rows) for mb in update)
        assert sum(mb.weight for mb in update) == pytest.approx(1)
    assert RowsFirst().commits_once and not RowsFirst(rows_per_update=4).commits_once


def test_a_single_step_and_a_single_pair_work():
    (only,) = order(Pairs(per_update=2), groups=1, steps=1)
    assert only.rows.tolist() == [[0, 1]] and only.steps.tolist() == [[0]]

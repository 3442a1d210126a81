from dataclasses import replace

import pytest
import torch
from diffrl_sdpo.loss import RewardDifference

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Groups, Pairs, RowsFirst
from diffrl.errors import FitError
from diffrl.recipe import Recipe
from diffrl.trainer.loop import turns
from diffrl.trainer.shares import SEEDS, shared
from diffrl.types import Advantages, Minibatch

PROMPTS = tuple("abcdefg")


def shares(processes, count=7, rows=4):
    """Return the share of each process of one epoch."""
    made = []
    for rank in range(processes):
        rng = torch.Generator().manual_seed(1)
        made.append(shared(PROMPTS, count, rows, rng, processes, rank))
    return made


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 7])
def test_every_group_has_one_process_whatever_their_number(processes):
    (alone,), several = shares(1), shares(processes)
    for one in several:
        assert (one.text, one.seeds, one.owned) == (alone.text, alone.seeds, several[0].owned)
    assert sorted(g for one in several for g in one.own) == list(range(7))
    sizes = [len(one.own) for one in several]
    assert max(sizes) - min(sizes) <= 1
    assert torch.cat([one.own_rows for one in several]).tolist() == several[0].order.tolist()


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(
    "scheduler",
    [Pairs(per_update=3), Pairs(choose="all"), Groups(per_update=2), RowsFirst(rows_per_update=5)],
    ids=lambda s: f"{s.name}",
)
def test_the_processes_compute_each_tuple_of_a_minibatch_once(scheduler, processes):
    several = shares(processes)
    prompts = several[0].prompts
    advantages = Advantages(torch.zeros(len(prompts), 3))
    for whole in scheduler(prompts, advantages, torch.Generator().manual_seed(2)):
        weight, seen = 0.0, {}
        for one in several:
            mine, places = one.of(whole)
            weight += mine.weight
            rows = one.own_rows[mine.rows]
            for place, tuple_, steps in zip(places.tolist(), rows, mine.steps, strict=True):
                assert place not in seen
                seen[place] = (tuple_.tolist(), steps.tolist())
        assert weight == pytest.approx(whole.weight)
        assert seen == {
            i: (rows.tolist(), steps.tolist())
            for i, (rows, steps) in enumerate(zip(whole.rows, whole.steps, strict=True))
        }


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_the_tuples_of_each_optimizer_step_are_shared_evenly(processes):
    recipe = Recipe(
        name="try",
        source="",
        sampler=Ddim(steps=3, group=2),
        reward_predictor=Terminal(),
        advantage_estimator=Returns(),
        update_scheduler=Pairs(per_update=8),
        loss=RewardDifference(),
    )
    for rank in range(processes):
        rng = torch.Generator().manual_seed(1)
        share = shared(PROMPTS, 24, 2, rng, processes, rank)
        share = share.dealt(turns(recipe, share, rng, epoch=1))
        torch.randint(SEEDS, (), generator=rng)
        prompts = share.prompts
        advantages = Advantages(torch.zeros(len(prompts), 3))
        for whole in recipe.update_scheduler(prompts, advantages, rng):
            mine = len(share.of(whole)[1])
            assert abs(mine - len(whole.rows) / processes) < 1


def test_groups_that_no_update_uses_are_dealt_out_too():
    (share,) = shares(1)
    two = replace(share, owned=((0, 1, 2, 3), (4, 5, 6))).dealt([6, 2, 0, 1, 3, 4, 5])
    assert two.owned == ((0, 3, 5, 6), (1, 2, 4))


def test_groups_that_are_left_out_leave_no_gap():
    for one, before in zip(shares(3), shares(3), strict=True):
        left = one.without([0, 3])
        assert left.text == tuple(before.text[g] for g in (1, 2, 4, 5, 6))
        assert left.seeds == tuple(before.seeds[g] for g in (1, 2, 4, 5, 6))
        assert sorted(g for own in left.owned for g in own) == list(range(5))
        assert [left.text[g] for g in left.own] == [
            before.text[g] for g in before.own if g not in (0, 3)
        ]


def test_tuples_across_groups_need_a_single_process():
    across = Minibatch(torch.tensor([[0, 4]]), torch.tensor([[0]]))
    (alone,) = shares(1)
    assert alone.of(across)[0].rows.tolist() == [[0, 4]]
    with pytest.raises(FitError, match="rows of different groups"):
        shares(2)[0].of(across)


def test_another_epoch_is_another_draw():
    rng = torch.Generator().manual_seed(1)
    first, second = (shared(PROMPTS, 7, 4, rng) for _ in range(2))
    assert set(first.seeds).isdisjoint(second.seeds)
    assert replace(first, text=second.text, seeds=second.seeds) == second

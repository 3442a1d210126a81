"""What an epoch's line of metrics says, apart from a run."""

from dataclasses import replace

import pytest
import torch

from diffrl.judge import Ledger
from diffrl.scoring import ScoredBy
from diffrl.trainer.collect import Collected
from diffrl.trainer.exchange import Exchange
from diffrl.trainer.loop import as_figures
from diffrl.trainer.metrics import loss_metrics, reward_metrics
from diffrl.trainer.ranks import Ranks, accelerator
from diffrl.trainer.shares import Share
from diffrl.trainer.tally import Tally
from diffrl.types import Advantages, Prompts, Rewards, Rollout


class Alike(Exchange):
    """Other processes that have what this one has."""

    def __init__(self, count):
        self.count, self.rank = count, 0

    def objects(self, items, purpose="words"):
        return self.count * list(items)

    def rows(self, own, counts, purpose="rewards"):
        return torch.cat(self.count * [own])


def ranks(count=1):
    made = Ranks(accelerator("cpu", "fp32"), 1.0)
    made.exchange = Alike(count)
    return made


REWARD = (ScoredBy("taste", lambda images, text: images, scale=10.0),)


def tally(ledger):
    prompts = Prompts(("a", "b"), torch.arange(2), torch.zeros(2, 1))
    rollout = Rollout(prompts, torch.tensor([999.0, 749.0, 499.0]), torch.zeros(2, 1))
    share, rewards = Share(("a", "b"), (1, 2), 1, ((0, 1),)), Rewards(torch.zeros(2, 3))
    found = Collected(share, rollout, rewards, rewards)
    return Tally(found, Advantages(torch.zeros(2, 3)), ledger)


def ledger():
    book = Ledger([torch.tensor([0, 2, 2, 0])])
    book.enter("taste", torch.tensor([1.0, 2.0, 4.0, 3.0]))
    return book


def test_rewards_are_in_their_printed_unit_at_the_first_and_last_step():
    assert reward_metrics(tally(ledger()), ranks(), REWARD) == {
        "reward_queries": 4,
        "reward/taste/step_0": 20,
        "reward/taste/step_0_std": 10,
        "reward/taste/step_2": 30,
        "reward/taste/step_2_std": 10,
        "reward/taste/mean": 30,
        "reward/taste/std": 10,
    }


def test_queries_of_all_processes_are_counted():
    assert reward_metrics(tally(ledger()), ranks(2), REWARD)["reward_queries"] == 8


def test_an_epoch_that_asks_for_no_rewards_has_no_reward_metrics():
    assert reward_metrics(tally(Ledger()), ranks(), REWARD) == {"reward_queries": 0}


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_optimizer_steps_that_overflowed_are_not_counted(bad):
    norms = [torch.tensor(v) for v in (1.0, bad, 3.0)]
    losses = [(1.0, {"value": torch.tensor(2.0)})]
    some = replace(tally(Ledger()), losses=losses, grad_norms=norms)
    assert loss_metrics(some, ranks()) == {
        "loss/value": 2,
        "grad_norm": 2,
        "updates": 2,
        "skipped": 1,
    }
    none = replace(some, grad_norms=[torch.tensor(bad)])
    assert loss_metrics(none, ranks()) == {"loss/value": 2, "updates": 0, "skipped": 1}


def test_a_loss_need_not_say_the_same_of_every_piece():
    """What is not finite is left out of its own mean alone, and what some pieces lack, too."""
    nan, number = torch.tensor(torch.nan), torch.tensor
    losses = [
        (0.25, {"value": number(2.0), "once": number(7.0), "seen_max": number(1.0)}),
        (0.75, {"value": number(6.0), "seen_max": number(3)}),
        (1.0, {"value": nan, "seen_max": nan, "never": nan}),
    ]
    wanted = {"loss/value": 5, "loss/once": 7, "loss/seen_max": 3}
    for count in (1, 2):
        some = replace(tally(Ledger()), losses=losses)
        assert loss_metrics(some, ranks(count)) == wanted


def test_what_a_loss_says_of_itself_may_be_a_plain_number():
    told = {"value": torch.tensor(2.0, requires_grad=True) * 1, "rows": 3, "share": 0.5}
    found = as_figures(told, torch.device("cpu"))
    assert {name: float(value) for name, value in found.items()} == {
        "value": 2,
        "rows": 3,
        "share": 0.5,
    }
    assert not found["value"].requires_grad


def test_an_estimators_gradient_counts_in_several_processes_too(monkeypatch):
    one = tally(Ledger())
    rewards = Rewards(torch.zeros(2, 3), torch.ones(2, 1))
    share = Share(("a", "b"), (1, 2), 1, ((0,), (1,)), rank=1)
    every = Advantages(torch.zeros(2, 3), torch.tensor([[0.25], [0.5]]))
    own = replace(one, found=Collected(share, one.found.rollout, rewards, rewards), everyone=every)
    assert own.advantages.grad is not None and own.advantages.grad.tolist() == [[0.5]]
    monkeypatch.setattr(Ranks, "count", 2)
    together = ranks(2).together(Rewards(torch.zeros(1, 3), torch.ones(1, 1)), share)
    assert together.grad is not None and together.grad.shape == (2, 1)


def test_a_process_that_asked_for_nothing_joins_those_that_did():
    """A predictor may ask about some prompts alone, which another process has."""
    joined = ranks(2)
    joined.everyones = lambda items: [0, 4] if items == [0] else items
    rows = {False: torch.tensor([0, 2, 2, 0]), True: torch.tensor([1.0, 2.0, 4.0, 3.0])}
    joined.exchange.rows = lambda own, counts, purpose="": rows[own.is_floating_point()]
    found = reward_metrics(tally(Ledger()), joined, REWARD)
    assert (found["reward_queries"], found["reward/taste/mean"]) == (4, 30)


def test_a_loss_that_weighs_nothing_has_no_mean():
    done = tally(ledger())
    done.losses = [(0.0, {"value": torch.tensor(2.0), "ratio_max": torch.tensor(3.0)})]
    assert loss_metrics(done, ranks()) == {"loss/ratio_max": 3.0}

"""What stages return is looked at before it is believed."""

import re
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar

import numpy
import pytest
import torch
from diffrl_ddpo.loss import ClippedRatio

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ode
from diffrl.builtin.update_schedulers import Pairs
from diffrl.errors import PluginError, RewardError, SettingsError
from diffrl.expected import (
    as_loss,
    as_rewards_are,
    as_tuples,
    minibatches,
    noiseless,
    one_for_each_step,
    refuse_noiseless,
    rows_side_by_side,
)
from diffrl.kernels import Ddim, log_density
from diffrl.trainer.loop import as_figures
from diffrl.types import (
    Advantages,
    LossOut,
    Memory,
    Minibatch,
    Path,
    Prompts,
    Rewards,
    Rollout,
)


def rollout(*text, steps=3, group=1):
    prompts = Prompts(text, torch.arange(len(text)) // group, torch.zeros(len(text), 1))
    return Rollout(prompts, torch.arange(steps).float(), torch.zeros(len(text), 1))


ONE = torch.zeros((), requires_grad=True)


def forged(kind, **fields):
    """Make a value as a plugin does where nobody checks types as these tests do."""
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


WHOLE = forged(Advantages, value=torch.ones(2, 3).long())
LISTED = forged(Memory, history={("a", 3): [1.0]})


def test_what_is_right_is_left_as_it_is():
    drawn, rewards = rollout("a", "a", "b", "b", group=2), Rewards(torch.rand(4, 3))
    rows_side_by_side(Ode(), drawn, ["a", "b"], 2)
    assert one_for_each_step(Terminal(), rewards, drawn, drop=False) is rewards
    advantages = Advantages(torch.rand(4, 3))
    assert as_rewards_are(Returns(), (advantages, Memory()), rewards) == (advantages, Memory())
    pair = Minibatch(torch.tensor([[0, 1]]), torch.tensor([[2, 0]]))
    found = as_tuples(Pairs(), pair, drawn.prompts, 3)
    assert (found.rows.tolist(), found.steps.tolist()) == ([[0, 1]], [[2, 0]])
    said = {"fraction": torch.tensor(0.5), "one": torch.ones(1), "numpy": numpy.float32(2)}
    out = forged(LossOut, value=torch.zeros((), requires_grad=True), metrics=said)
    assert as_loss(ClippedRatio(), out) is out
    figures = as_figures(said, torch.device("cpu"))
    assert {name: value.shape for name, value in figures.items()} == dict.fromkeys(said, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("abab", "gave 'b' in row 1; expected 'a': each prompt 2 time(s), side by side"),
        ("aab", "gave 3 row(s) for 2 prompt(s); expected each 2 time(s)"),
    ],
)
def test_rows_of_other_prompts_are_refused(text, said):
    with pytest.raises(PluginError, match=re.escape(said)):
        rows_side_by_side(Ode(), rollout(*text), ["a", "b"], 2)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (torch.tensor([0, 0, 0, 0]), "gave prompts.group [0, 0, 0, 0]; expected the same number"),
        (torch.tensor([0, 1, 2, 3]), "and another for the next one, even if its text is the same"),
        (torch.tensor([0, 0, 1]), "as torch.int64 of shape (3,); expected a whole number for each"),
        (torch.zeros(4), "as torch.float32 of shape (4,); expected a whole number for each of 4"),
        ([0, 0, 1, 1], "its prompts.group gave list; expected Tensor"),
    ],
)
def test_groups_that_cannot_be_told_apart_are_refused(number, said):
    drawn = rollout("a", "a", "a", "a", group=2)
    text = forged(Prompts, text=drawn.prompts.text, group=number, cond=torch.zeros(4, 1))
    fields = {name: getattr(drawn, name) for name in ("times", "x0", "path", "labels")}
    with pytest.raises(PluginError, match=re.escape(said)):
        rows_side_by_side(Ode(), forged(Rollout, prompts=text, **fields), ["a", "a"], 2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.rand(2, 1), "torch.float32 of shape (2, 1); expected"),
        (torch.tensor([[0, 0, 0], [0, torch.inf, 0]]), "inf for prompt 'b' at denoising step 1"),
    ],
)
def test_rewards_that_are_not_one_for_each_step_are_refused(value, said):
    with pytest.raises(RewardError, match=re.escape(said)):
        one_for_each_step(Terminal(), Rewards(value), rollout("a", "b"), drop=False)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"grad": torch.zeros(2, 3)}, "its grad has shape (2, 3); expected (2, 1)"),
        ({"grad": [0.0, 1.0]}, "its grad gave list; expected Tensor"),
        ({"each": torch.zeros(3, 2)}, "its each has shape (3, 2); expected (2, r)"),
        ({"each": torch.zeros(2)}, "its each has shape (2,); expected (2, r)"),
        ({"grad": torch.zeros(2, 1), "each": torch.zeros(2, 4)}, None),
    ],
)
def test_what_lies_beside_rewards_has_their_rows(beside, said):
    rewards = forged(Rewards, **{"value": torch.rand(2, 3), "grad": None, "each": None, **beside})
    expected = (RewardError, PluginError)
    with pytest.raises(expected, match=re.escape(said)) if said else nullcontext():
        one_for_each_step(Terminal(), rewards, rollout("a", "b"), drop=False)


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(2, 1), [1.0, 0.0]])
def test_labels_that_are_not_one_for_each_row_are_refused(labels):
    drawn = rollout("a", "b")
    fields = {name: getattr(drawn, name) for name in ("prompts", "times", "x0", "path")}
    with pytest.raises(PluginError, match=r"sampler 'ode'(: its| gave) labels .*; expected"):
        rows_side_by_side(Ode(), forged(Rollout, **fields, labels=labels), ["a", "b"], 1)


def test_rewards_that_will_be_dropped_may_be_nan():
    rewards = Rewards(torch.full((2, 3), torch.nan))
    assert one_for_each_step(Terminal(), rewards, rollout("a", "b"), drop=True) is rewards


def test_rewards_keep_no_graph():
    rewards = Rewards(torch.rand(2, 3, requires_grad=True) * 2)
    found = one_for_each_step(Terminal(), rewards, rollout("a", "b"), drop=False)
    assert not found.value.requires_grad and torch.equal(found.value, rewards.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.rand(2, 1), "of shape (2, 1) for rewards of shape (2, 3)"),
        (torch.full((2, 3), torch.nan), "gave 6 advantage(s) that are not finite"),
    ],
)
def test_advantages_that_are_not_one_for_each_reward_are_refused(value, said):
    with pytest.raises(PluginError, match=re.escape(said)):
        as_rewards_are(Returns(), (Advantages(value), Memory()), Rewards(torch.rand(2, 3)))


def walked(times):
    """Return two rows that a kernel has denoised along some timesteps."""
    kernel = Ddim(torch.linspace(0.999, 0.01, 1000), len(times), 1.0)
    x, log_prob = [torch.randn(2, 1, 2, 2)], []
    for time in times:
        step = kernel.transition(torch.randn(2, 1, 2, 2), torch.full((2,), time), x[-1])
        x.append(step.mean + step.std * torch.randn(2, 1, 2, 2))
        log_prob.append(log_density(x[-1], step))
    path = Path(kernel, torch.stack(log_prob, 1), torch.stack(x, 1))
    drawn = rollout("a", "b", steps=len(times))
    return Rollout(drawn.prompts, torch.tensor(times).float(), x[-1], path)


def test_a_step_without_noise_is_not_trained_on():
    drawn = walked([999, 500, 0])  # as a scheduler with timestep_spacing linspace has them
    rows = torch.tensor([[0, 1]])
    assert noiseless(drawn) == {2}
    refuse_noiseless(noiseless(drawn), Minibatch(rows, torch.tensor([[0, 1]])), drawn)
    said = "denoising step 3 of 3, at timestep 0, draws no noise"
    with pytest.raises(SettingsError, match=said):
        refuse_noiseless(noiseless(drawn), Minibatch(rows, torch.tensor([[1, 2]])), drawn)


def test_steps_with_noise_and_states_that_blew_up_are_no_steps_without_noise():
    assert noiseless(walked([999, 666, 333])) == frozenset()
    assert noiseless(rollout("a", "b")) == frozenset()
    drawn = walked([999, 666, 333])
    half = replace(drawn, path=replace(drawn.path, x=drawn.path.x.bfloat16()))
    assert noiseless(half) == frozenset()  # bfloat16 has no 999
    drawn.path.x[:, 1:], drawn.path.log_prob[:] = torch.nan, torch.nan
    assert noiseless(drawn) == frozenset()


def test_steps_of_a_process_whose_groups_were_all_dropped_are_known_too():
    drawn = walked([999, 500, 0])
    nothing = replace(drawn.path, x=drawn.path.x[:0], log_prob=drawn.path.log_prob[:0])
    assert noiseless(replace(drawn, path=nothing)) == {2}


def test_steps_of_a_path_that_nobody_drew_are_known_by_their_kernel():
    for times, blank in (([999, 666, 333], set()), ([999, 500, 0], {2})):
        drawn = walked(times)
        drawn.path.log_prob[:] = torch.nan  # as stored pictures have them
        assert noiseless(drawn) == blank


def test_a_sampler_whose_path_has_other_sizes_is_refused():
    drawn = rollout("a", "b")
    kernel, log_prob = Ddim(torch.ones(1000), 3), torch.zeros(2, 3)
    path = forged(Path, kernel=kernel, log_prob=log_prob, x=torch.zeros(2, 3, 1), x0_hat=None)
    with pytest.raises(PluginError, match=r"path.x of shape \(2, 3, 1\); expected \(2, 4\) first"):
        rows_side_by_side(Ode(), replace(drawn, path=path), ["a", "b"], 1)
    with pytest.raises(PluginError, match="sampler 'ode' gave None; expected Rollout"):
        rows_side_by_side(Ode(), None, ["a"], 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Advantages(torch.rand(2, 3)), "gave Advantages; expected (Advantages, Memory)"),
        ((Advantages(torch.rand(2, 3)), None), "as its memory, it gave None; expected Memory"),
        ((torch.rand(2, 3), Memory()), "gave a tensor of shape (2, 3); expected Advantages"),
        (
            (forged(Advantages, value=torch.ones(2, 3).long()), Memory()),
            "gave torch.int64 of shape (2, 3)",
        ),
        (
            (Advantages(torch.rand(2, 3)), forged(Memory, history={("a", 3): [1.0]})),
            "its memory of ('a', 3) gave",
        ),
        (
            (Advantages(torch.rand(2, 3)), forged(Memory, history={"mean": torch.ones(1)})),
            "remembers something by the key 'mean'; expected (prompt, number of steps)",
        ),
        (
            (Advantages(torch.rand(2, 3)), forged(Memory, history={("a", 1.5): torch.ones(1)})),
            "by the key ('a', 1.5)",
        ),
    ],
)
def test_what_an_estimator_returns_in_another_form_is_refused(given, said):
    with pytest.raises(PluginError, match=re.escape(said)):
        as_rewards_are(Returns(), given, Rewards(torch.rand(2, 3)))


@pytest.mark.parametrize(
    ("rows", "steps", "weight", "said"),
    [
        ([[0, 2]], [[0]], 1.0, "gave rows from 0 to 2; there are 2"),
        ([[0, -1]], [[0]], 1.0, "gave rows from -1 to 0"),
        ([[0, 1]], [[3]], 1.0, "gave steps from 3 to 3; there are 3"),
        ([[0]], [[0]], 1.0, "gave tuples of 1 row(s); it says arity = 2"),
        ([0, 1], [[0]], 1.0, "expected whole numbers of shape m × k"),
        ([[0, 1]], [[0], [1]], 1.0, "expected whole numbers of shape m × s"),
        ([[0.0, 1.0]], [[0]], 1.0, "gave rows as torch.float32"),
        ([[True, False]], [[0]], 1.0, "gave rows as torch.bool"),
        ([[0, 1]], [[0]], float("nan"), "gave the weight nan"),
    ],
)
def test_minibatches_of_what_is_not_there_are_refused(rows, steps, weight, said):
    at = {"rows": torch.tensor(rows), "steps": torch.tensor(steps)}
    one = forged(Minibatch, **at, commit=True, weight=weight)
    with pytest.raises(PluginError, match=re.escape(said)):
        as_tuples(Pairs(), one, rollout("a", "b").prompts, 3)


@pytest.mark.parametrize("commits", [[], [True], [False, True], [True, False]])
def test_a_last_minibatch_that_does_not_commit_is_refused(commits):
    class Few(Pairs):
        """Yields what the test says."""

        name: ClassVar[str] = "few"

        def __call__(self, prompts, advantages, rng):
            rows, steps = torch.tensor([[0, 1]]), torch.tensor([[0]])
            yield from (Minibatch(rows, steps, commit) for commit in commits)

    prompts, ahead = rollout("a", "a").prompts, Advantages(torch.zeros(2, 3))
    left_over = commits[-1:] == [False]
    said = "'few' gave a last minibatch with commit=False"
    with pytest.raises(PluginError, match=said) if left_over else nullcontext() as refused:
        found = list(minibatches(Few(), prompts, ahead, torch.Generator()))
    if left_over:
        assert refused.value.everywhere
    else:
        assert [one.commit for one in found] == commits


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (None, "gave None; expected LossOut"),
        (torch.zeros(()), "gave a tensor of shape (); expected LossOut"),
        (
            forged(LossOut, value=torch.zeros(1, requires_grad=True), metrics={}),
            "gave a value of shape (1,)",
        ),
        (LossOut(torch.zeros(()), {}), "gave a value of shape () without a gradient"),
        (forged(LossOut, value=ONE, metrics={"m": torch.zeros(2)}), "metric 'm': a tens"),
        (forged(LossOut, value=ONE, metrics={1: torch.zeros(())}), "gave the metric 1:"),
        (LossOut(ONE, {"value": torch.zeros(())}), "a metric 'value', which is the loss"),
        (forged(LossOut, value=ONE, metrics=[1]), "gave the metric None: list"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(out, said):
    with pytest.raises(PluginError, match=re.escape(said)):
        as_loss(ClippedRatio(), out)

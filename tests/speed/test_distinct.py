"""Rows that begin with the same noise are predicted once, and nothing else changes."""

import pytest
import torch

import diffrl
from diffrl.builtin.samplers import Ddim
from diffrl.errors import SettingsError
from diffrl.planning.configs import pipeline_config
from diffrl.planning.costs import shapes
from diffrl.planning.counting import Counting
from diffrl.policy import UNetPolicy
from diffrl.settings.resolve import resolve
from diffrl.speed.distinct import distinct
from diffrl.trainer.opening import open_prompts


def rows(*values):
    """States, times and conditions of one number each."""
    x, t, cond = torch.tensor(values).T
    return x[:, None, None, None], t, cond[:, None, None]


@pytest.mark.parametrize(
    ("given", "left", "back"),
    [
        ([(1.0, 9.0, 5.0), (1.0, 9.0, 5.0), (2.0, 9.0, 5.0)], [0, 2], [0, 0, 1]),
        ([(1.0, 9.0, 5.0), (2.0, 9.0, 5.0), (2.0, 9.0, 5.0)], [0, 1], [0, 1, 1]),
        ([(1.0, 9.0, 5.0)] * 4, [0], [0, 0, 0, 0]),
        ([(1.0, 9.0, 5.0), (2.0, 9.0, 5.0), (1.0, 9.0, 5.0)], [0, 1, 2], None),
        ([(1.0, 9.0, 5.0), (1.0, 8.0, 5.0), (1.0, 8.0, 6.0)], [0, 1, 2], None),
        ([(float("nan"), 9.0, 5.0)] * 2, [0, 1], None),
        ([(1.0, 9.0, 5.0)], [0], None),
    ],
    ids=["first two", "last two", "all", "not neighbours", "time, prompt", "no number", "one"],
)
def test_a_row_that_equals_the_one_before_it_is_left_out(given, left, back):
    x, t, cond = rows(*given)
    found, places = distinct(x, t, cond)
    for one, whole in zip(found, (x, t, cond), strict=True):
        torch.testing.assert_close(one, whole[left], equal_nan=True)
    assert (None if places is None else places.tolist()) == back


def test_states_that_carry_a_gradient_are_left_alone():
    x, t, cond = rows((1.0, 9.0, 5.0), (1.0, 9.0, 5.0))
    (found, _, _), places = distinct(x.requires_grad_(), t, cond)
    assert found is x and places is None


@pytest.fixture
def asked(monkeypatch):
    """The numbers of rows that networks were called with."""
    found, forward = [], UNetPolicy._forward

    def call(self, x, *given):
        found.append(len(x))
        return forward(self, x, *given)

    monkeypatch.setattr(UNetPolicy, "_forward", call)
    return found


def drawn(policy, share_noise=True):
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad(), policy.sampling():
        return Ddim(steps=3, group=2, share_noise=share_noise)(policy, ["a fox", "two owls"], rng)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_log_probs_and_gradients_are_the_same(guidance, world, asked, same_gradients):
    usual, other = world(), world(deduplicate=True)
    for one in (usual, other):
        one.policy._guidance = guidance
    twice = 1 if guidance == 1 else 2
    want = drawn(usual.policy)
    assert asked == [4 * twice] * 3
    asked.clear()
    rollout = drawn(other.policy)
    assert asked == [n * twice for n in (2, 4, 4)]
    torch.testing.assert_close(rollout.x0, want.x0, rtol=1e-4, atol=1e-4)
    batch = other.batch(rollout)  # first steps of one pair, second steps of the other
    asked.clear()
    found, gradients = other.gradients(batch)
    assert set(asked) == {3 * twice, 4 * twice}
    torch.testing.assert_close(found, batch.log_prob, rtol=0, atol=1e-6)
    wanted, others = usual.gradients(batch)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert same_gradients(gradients, others, rtol=1e-3)


def test_rows_with_noise_of_their_own_are_all_predicted(world, asked):
    drawn(world(deduplicate=True).policy, share_noise=False)
    assert asked == [4, 4, 4]


@pytest.mark.parametrize(
    ("sets", "device", "wanted"),
    [
        ([], "cpu", True),
        ([], "cuda", False),
        (["speed.compile=default"], "cpu", False),
        (["speed.deduplicate=on"], "cuda", True),
        (["speed.deduplicate=off"], "cpu", False),
    ],
)
def test_it_is_done_where_it_costs_nothing_or_is_asked_for(sets, device, wanted):
    assert resolve("sdpo", ["pickscore"], sets=sets).deduplicates(device) is wanted


def test_recorded_networks_refuse_it(tiny_model, tmp_path):
    sets = [f"model.ref={tiny_model}", "speed.graphs=true", "speed.deduplicate=on"]
    with pytest.raises(SettingsError, match=r"speed\.deduplicate = 'on': not with speed\.graphs"):
        diffrl.train("sdpo", "pickscore", sets=sets, output=tmp_path / "run")


@pytest.mark.parametrize("algo", ["sdpo", "d3po", "ddpo"])
def test_a_run_makes_the_calls_that_are_planned_for_it(algo, tmp_path, asked):
    """Counted: rows that the networks of an epoch predict, with two evaluations of two pictures."""
    sets = ["train.trajectories=8", "train.micro_batch=2", "sampler.steps=3", "train.epochs=1"]
    sets += ["eval.every=1", "eval.images=2", "eval.steps=[1,2]", "eval.prompts=animals"]
    settings = resolve(algo, ["pickscore"], sets=sets)
    shape = shapes(settings, pipeline_config(settings.model.ref))
    (epoch,) = Counting(settings, shape, open_prompts(settings.train.prompts)).epochs()
    planned = sum(n * times for (_, n), times in (epoch.sampling + epoch.updating).items())
    asked.clear()
    diffrl.train(algo, "pickscore", sets=[*sets, "train.track=[]"], output=tmp_path / "run")
    evaluations = 2 * 2 * 2 * 2  # live and base, each of two times that are not alike
    assert sum(asked) == planned + evaluations

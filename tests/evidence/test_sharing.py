"""What models that are judged together share."""

from dataclasses import replace

import pytest

from diffrl.builtin.rewards.function import function_reward
from diffrl.builtin.rewards.served import served_reward
from diffrl.builtin.samplers import Ddim
from diffrl.evidence import sharing
from diffrl.evidence.subjects import Subject
from diffrl.evidence.verdicts import _apart
from diffrl.settings.resolve import resolve


class Shifted(Ddim):
    name = "shifted"
    shift: float = 1.0


@pytest.fixture
def of(monkeypatch):
    """Returns what is told of runs with such samplers, judged with the first one's by name."""
    monkeypatch.setattr(
        sharing, "sampler_called", lambda name: {"ddim": Ddim, "shifted": Shifted}[name]()
    )
    settings = resolve("sdpo", ["pickscore"])

    def told(*samplers):
        runs = [
            Subject(
                f"run{number}",
                "",
                "",
                run=replace(settings, recipe=settings.recipe.but(sampler=sampler)),
            )
            for number, sampler in enumerate(samplers)
        ]
        chosen = sharing.usual(runs[0].run)
        return sharing.drawn_otherwise(runs, chosen, {})

    return told


def test_fields_of_a_plugins_sampler_that_an_evaluation_leaves_out_are_told(of):
    one, other = Shifted(group=2, shift=1.0), Shifted(group=2, shift=3.0)
    assert of(one) == []
    assert of(one, other) == ["sampler.shift 1.0 for all; the run of run1 has 3.0"]
    assert of(other) == ["sampler.shift 1.0 for all; the run of run0 has 3.0"]


def test_fields_that_pictures_of_their_own_have_no_use_for_are_not_told(of):
    assert of(Ddim(steps=8, group=2, share_noise=True), Ddim(steps=4, group=4)) == []


def test_a_served_reward_is_the_same_however_patiently_it_is_asked():
    kind = served_reward("http://127.0.0.1:1", "hps")
    one, other = kind(timeout=5.0, attempts=1), kind(timeout=300.0, backoff=2.0)
    assert sharing._unlike(one, other) == []
    assert _apart([{"hps": one.identity()}, {"hps": other.identity()}]) == set()
    moved = served_reward("http://127.0.0.1:2", "hps")()
    assert _apart([{"hps": one.identity()}, {"hps": moved.identity()}]) == {"hps"}


def test_rewards_that_are_made_of_one_word_are_equal():
    for made in (
        lambda: function_reward("mod:fn")(),
        lambda: served_reward("http://127.0.0.1:1")(),
    ):
        assert made() == made()

"""What an evaluation's networks predicted is known for the same rows, and for no others."""

from dataclasses import replace

import pytest
import torch

from diffrl.builtin.samplers import Ddim
from diffrl.scoring import ScoredBy
from diffrl.settings import EvalSettings
from diffrl.speed.fitting import Pieces
from diffrl.speed.heard import Call, Heard
from diffrl.trainer.evaluate import evaluate


def asked(time, rows=3, seed=0):
    """States, times and conditions."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, 2, 2, generator=rng)
    return x, torch.full((rows,), float(time)), torch.arange(float(rows))[:, None, None]


def told(heard, time, weights="live", **given):
    x, t, cond = asked(time, **given)
    heard.keep(Call(weights, x, t, cond, 2 * x))
    return x


def test_beginnings_are_known_to_later_pieces():
    heard = Heard(shown=2)
    x = told(heard, 999)
    told(heard, 999, "base", rows=2)
    heard.forget()
    assert torch.equal(heard.find("live", *asked(999)), 2 * x)
    first = (one[:2] for one in asked(999))
    assert torch.equal(heard.find("base", *first), 2 * x[:2])
    assert heard.find("base", *asked(999)) is None  # a row more than was asked for


def test_other_steps_are_known_of_the_rows_that_are_shown_until_their_piece_ends():
    heard = Heard(shown=2)
    told(heard, 999)
    x = told(heard, 499, seed=1)
    told(heard, 499, "base", seed=2)
    first = tuple(one[:2] for one in asked(499, seed=1))
    assert torch.equal(heard.find("live", *first), 2 * x[:2])
    assert heard.find("live", *asked(499, seed=1)) is None
    assert heard.find("base", *(one[:2] for one in asked(499, seed=2))) is None
    heard.forget()
    assert heard.find("live", *first) is None


def test_other_states_times_conditions_and_weights_are_not_known():
    """A sampler with guidance of its own also asks without a prompt."""
    heard = Heard(shown=3)
    told(heard, 999)
    x, t, cond = asked(999)
    for other in ((x + 1, t, cond), (x, t - 1, cond), (x, t, 0 * cond), asked(999, rows=4)):
        assert heard.find("live", *other) is None
    assert heard.find("base", x, t, cond) is None
    assert heard.find("live", x, t, cond) is not None


@pytest.mark.parametrize("time", [999, 499], ids=["beginning", "later"])
def test_what_was_given_and_is_given_back_may_be_changed(time):
    heard = Heard(shown=3)
    told(heard, 999, seed=1)
    given = (*asked(time), 2 * asked(time)[0])
    heard.keep(Call("live", *given))
    for one in given:
        one.zero_()
    assert heard.find("live", *given[:3]) is None
    heard.find("live", *asked(time)).zero_()
    assert torch.equal(heard.find("live", *asked(time)), 2 * asked(time)[0])


def test_rows_may_have_several_axes():
    heard = Heard(shown=1)
    x, t, cond = (torch.stack([one, one + 1]) for one in asked(999))
    heard.keep(Call("live", x, t, cond, 2 * x))
    assert torch.equal(heard.find("live", x, t, cond), 2 * x)


class Guided(Ddim):
    """A sampler that moves states, in place, along the gradient of what is predicted of them."""

    def __call__(self, policy, text, rng):
        drawn = super().__call__(policy, text, rng)
        x, t = drawn.path.x[:, 0].clone(), drawn.times[0].expand(len(text)).clone()
        for time in drawn.times:
            t.fill_(float(time))
            with torch.enable_grad():
                asked = x.detach().requires_grad_()
                policy.predict(asked, t, drawn.prompts.cond).square().sum().backward()
            x -= policy.predict(x, t, drawn.prompts.cond) + 0.01 * asked.grad
        return replace(drawn, x0=x, path=None)


def test_samplers_may_change_states_in_place_and_ask_for_gradients(plain):
    def found(exact):
        return evaluate(
            plain.policy, Guided(steps=2), lambda x0: x0[:, :3].sigmoid(),
            [ScoredBy("bright", lambda images, text: images.mean((1, 2, 3)))], ["a fox"],
            EvalSettings(images=4, steps=(1, 2), shown=2, watch=()), Pieces.of(2, 1, 4, "cpu"),
            exact=exact,
        ).scores  # fmt: skip

    assert found(exact=True) == found(exact=False)


def test_beginnings_of_many_pictures_are_not_all_kept():
    heard = Heard(shown=1, most=6)
    for seed in range(3):
        told(heard, 999, seed=seed)
    assert [heard.find("live", *asked(999, seed=s)) is None for s in range(3)] == [0, 0, 1]
    first = (one[:1] for one in asked(999, seed=2))
    assert heard.find("live", *first) is not None  # to be compared with the base


def test_schedules_whose_first_times_differ_keep_the_noisiest():
    heard, times = Heard(shown=0), (1, 501, 751, 251)
    for time in times:
        told(heard, time)
    assert [heard.find("live", *asked(time)) is not None for time in times] == [0, 0, 1, 0]

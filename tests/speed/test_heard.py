"""What an evaluation's networks predicted is known for the same rows, and for no others."""

import torch

from diffrl.speed.heard import Call, Heard


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


def test_what_is_given_back_may_be_changed():
    heard = Heard(shown=1)
    x, t, cond = asked(999)
    output = 2 * x
    heard.keep(Call("live", x, t, cond, output))
    output.zero_()
    heard.find("live", x, t, cond).zero_()
    assert torch.equal(heard.find("live", x, t, cond), 2 * x)


def test_beginnings_of_many_pictures_are_not_all_kept():
    heard = Heard(shown=1, most=6)
    for seed in range(3):
        told(heard, 999, seed=seed)
    assert [heard.find("live", *asked(999, seed=s)) is None for s in range(3)] == [0, 0, 1]


def test_schedules_whose_first_times_differ_keep_the_noisiest():
    heard = Heard(shown=0)
    for time in (1, 501, 751, 251):
        told(heard, time)
    assert [heard.find("live", *asked(time)) is None for time in (1, 501, 751, 251)] == [0, 0, 0, 1]

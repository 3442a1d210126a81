"""Runs that are killed anywhere go on as if nothing had happened.

The default tier deals some blows of every kind; `-m slow` deals over 200, for every algorithm.
"""

import shutil

import pytest

from diffrl.registry import registry

from .harness import HARM, PHASES, Tally, assert_same, finish, seeded, strike

ALGORITHMS = [n for n, e in registry().components("algorithm").items() if e.package == "diffrl"]


def series(zygote, reference, folder, number, blows, kinds):
    """Deal blows to a run, then let it end, and compare; return what was done.

    A run that ends before a blow is compared, too, and another one begins.
    """
    rng, tally = seeded(number), Tally()
    for _ in range(4 * blows):
        if tally.made == blows:
            break
        if not strike(zygote, reference, folder, rng, kinds[tally.made % len(kinds)], tally):
            finish(zygote, reference, folder)  # it may only have been refused
            assert_same(reference, folder)
            shutil.rmtree(folder)
    finish(zygote, reference, folder)
    assert_same(reference, folder)
    tally.survived = tally.made
    return tally


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k == "SIGINT" else ()) for k in HARM]
)
def test_a_run_survives(kind, zygote, reference, tmp_path):
    """Two blows, one after the other, and the same end."""
    tally = series(zygote, reference("sdpo"), tmp_path / "run", hash_of(kind), 2, [kind])
    assert tally.survived == 2


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_run_is_killed_in_every_phase(phase, zygote, reference, tmp_path):
    rng, tally, folder = seeded(1), Tally(), tmp_path / "run"
    assert strike(zygote, reference("sdpo"), folder, rng, "SIGKILL", tally, phase)
    finish(zygote, reference("sdpo"), folder)
    assert_same(reference("sdpo"), folder)


def hash_of(kind):
    """Return a number that is the same in every process."""
    return sum(kind.encode())


@pytest.mark.slow
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_survives_many_blows(algo, zygote, reference, tmp_path, capsys):
    """Seven runs of each algorithm with five blows of all kinds each."""
    total, kinds = Tally(), list(HARM)
    for number in range(7):
        shifted = kinds[number % 5 :] + kinds[: number % 5]
        done = series(zygote, reference(algo), tmp_path / f"{number}", 100 + number, 5, shifted)
        for name, count in done.blows.items():
            total.blows[name] = total.blows.get(name, 0) + count
        total.survived += done.survived
    with capsys.disabled():
        print(f"\n{algo}: {total.survived} of {total.made} blows survived: {total.blows}")
    assert total.made == total.survived == 35

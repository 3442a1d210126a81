"""Shipped recipes, and changes to them that make no sense."""

import re
from pathlib import Path
from typing import ClassVar

import pytest
from diffrl_d3po import D3PO
from diffrl_ddpo import DDPO
from diffrl_rebel import PRDP, PRDP_REBEL, REBEL
from diffrl_sdpo import SDPO
from pydantic import ValidationError

from diffrl.builtin.advantages import Returns
from diffrl.builtin.samplers import Ddim, Ode
from diffrl.builtin.update_schedulers import Pairs, RowsFirst
from diffrl.errors import FitError, SettingsError
from diffrl.settings.resolve import resolve

PLUGINS = Path(__file__).parents[2] / "plugins"
ALL = [D3PO, DDPO, PRDP, PRDP_REBEL, REBEL, SDPO]


@pytest.mark.parametrize("recipe", [REBEL, PRDP, PRDP_REBEL], ids=lambda r: r.name)
@pytest.mark.parametrize(
    "scheduler",
    [Pairs(), Pairs(order="steps-accumulated"), Pairs(order="trajectories", timestep_fraction=0.5)],
)
def test_losses_on_trajectories_are_not_given_some_of_their_steps(recipe, scheduler):
    (problem,) = recipe.but(update_scheduler=scheduler).problems()
    assert "adds up all steps of a trajectory" in problem


@pytest.mark.parametrize("recipe", [SDPO, D3PO, REBEL], ids=lambda r: r.name)
def test_a_group_that_leaves_a_row_over_is_refused(recipe):
    (problem,) = recipe.but(sampler=Ddim(group=3)).problems()
    assert "leaves one row of every group of sampler.group=3 untrained" in problem
    assert recipe.but(sampler=Ddim(group=4)).problems() == []


def test_a_group_of_one_makes_no_pair():
    (problem,) = REBEL.but(sampler=Ddim(group=1)).problems()
    assert "needs groups of at least 2 rows, but sampler.group is 1" in problem


class Triples(Pairs):
    """Three rows of a group at once."""

    arity: ClassVar[int] = 3


def test_a_loss_of_any_arity_takes_larger_tuples_and_no_smaller_ones():
    three = Triples(order="trajectories")
    assert REBEL.but(update_scheduler=three, sampler=Ddim(group=6)).problems() == []
    (problem,) = SDPO.but(update_scheduler=Triples(), sampler=Ddim(group=6)).problems()
    assert "compares tuples of 2, but update scheduler 'pairs' yields tuples of 3" in problem
    single = RowsFirst(order="steps-in-order")
    assert "yields tuples of 1" in REBEL.but(update_scheduler=single).problems()[0]


def test_all_pairs_need_no_even_group():
    assert PRDP.but(sampler=Ddim(group=3)).problems() == []


def test_a_row_alone_is_not_compared_with_its_group():
    (problem,) = DDPO.but(advantage_estimator=Returns(per="group")).problems()
    assert "compares rows of a group, but sampler.group is 1" in problem


def variants():
    """Return every `key=value` in the tables of the plugins' READMEs, cell by cell."""
    for readme in sorted(PLUGINS.glob("*/README.md")):
        algo = readme.parent.name.removeprefix("diffrl_")
        for line in readme.read_text("utf-8").splitlines():
            if line.startswith("|") and (sets := re.findall(r"`([\w.]+=[^`]+)`", line)):
                together = " and " in line.split("|")[2]
                for some in [sets] if together else [[one] for one in sets]:
                    yield pytest.param(algo, some, id=f"{algo}-{'-'.join(some)}")


@pytest.mark.parametrize(("algo", "sets"), list(variants()))
def test_variants_in_the_readmes_resolve(algo, sets):
    recipes = ("rebel", "prdp") if algo == "rebel" else (algo,)
    failures = []
    for name in recipes:
        try:
            resolve(name, ["pickscore"], sets=sets)
        except SettingsError as error:
            failures.append(str(error))
    assert len(failures) < len(recipes), failures


def test_the_readmes_have_variants_of_every_plugin():
    found = [given.values[0] for given in variants()]
    assert all(found.count(algo) >= 3 for algo in ("ddpo", "d3po", "rebel", "sdpo")), found


@pytest.mark.parametrize("gamma", [None, 0.0, -1.0])
def test_a_terminal_reward_that_reaches_no_earlier_step_is_refused(gamma):
    estimator = Returns(gamma=gamma, per="batch")
    recipe = DDPO.but(advantage_estimator=estimator)
    (problem,) = recipe.problems()
    assert "rewards the last step alone" in problem and "gamma above 0" in problem
    assert recipe.but(sampler=Ddim(steps=1)).problems() == []
    assert SDPO.but(advantage_estimator=estimator).problems() == []  # every step has its reward
    with pytest.raises(FitError, match=r"raise advantage_estimator\.gamma above 0"):
        resolve("rebel", ["pickscore"], sets=["gamma=none"])


def test_a_sampler_that_says_nothing_of_what_it_gives_is_told_where_to():
    class Mute(Ddim):
        @property
        def gives(self):
            return frozenset()

    (line, *_) = SDPO.but(sampler=Mute()).problems()
    assert line.endswith("(sampler 'ddim' gives nothing: see its property gives)")


def test_needs_of_another_form_than_a_set_are_named():
    class Wordy(type(DDPO.loss)):
        @property
        def needs(self):
            return "path"

    problems = DDPO.but(loss=Wordy()).problems()
    assert problems == ["'clipped-ratio' has needs = 'path'; expected a frozenset of names"]


def test_rows_that_would_be_one_picture_are_refused():
    assert Ode().group_problems(2) == Ode(share_noise=True).group_problems(1) == []
    problems = D3PO.but(sampler=Ode(group=2, share_noise=True)).problems()
    assert [line for line in problems if "one picture" in line] == problems[-1:]


def test_a_deviation_of_zero_is_never_divided_by():
    with pytest.raises(ValidationError, match="greater than 0"):
        Returns(epsilon=0.0)


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_steps_without_noise_have_no_density_to_read(recipe):
    (line,) = recipe.but(sampler=recipe.sampler.model_copy(update={"eta": 0.0})).problems()
    assert line == (
        "sampler.eta is 0, so its steps have no density, which the loss reads; raise it"
    )

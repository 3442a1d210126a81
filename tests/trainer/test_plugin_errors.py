"""An error in a component's own code: the epoch is undone, and what was finished is saved."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from diffrl_ddpo.loss import ClippedRatio

import diffrl
from diffrl import moments
from diffrl.builtin.samplers import Ddim
from diffrl.errors import PluginError, ProcessLost, RewardError, SettingsError
from diffrl.settings.resolve import resolve
from diffrl.settings.rewards import read_saved
from diffrl.trainer.collect import refusing
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import Ranks


def failing_from(epoch, monkeypatch, tiny_updates, fail):
    """Let the loss fail from the first update of an epoch on."""
    call, count = ClippedRatio.__call__, [0]

    def counted(self, policy, batch):
        count[0] += 1
        return fail() if count[0] > tiny_updates * (epoch - 1) else call(self, policy, batch)

    monkeypatch.setattr(ClippedRatio, "__call__", counted)


def unreachable():
    raise ConnectionError("no route")


def refused():
    raise SettingsError(["nothing to train on"])


@pytest.fixture(scope="module")
def settings(tiny_sets):
    return [*tiny_sets, "checkpoint.every=10", "train.micro_batch=64"]


@pytest.fixture(scope="module")
def usual(settings, tmp_path_factory):
    """A run of two epochs in which nothing fails, and how often its first epoch asks the loss."""
    folder, asked, call = tmp_path_factory.mktemp("usual"), [], ClippedRatio.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClippedRatio, "__call__", lambda *given: asked.append(0) or call(*given))
        trained("one", settings, folder, 1)
    return trained("whole", settings, folder, 2), len(asked)


def trained(name, settings, folder, epochs=2):
    return diffrl.train(
        "ddpo", "pickscore", sets=settings, epochs=epochs, output=folder / name, live=False
    )


@pytest.mark.parametrize(
    ("fail", "kind", "said"),
    [
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda: None, PluginError, "loss 'clipped-ratio' gave None; expected LossOut"),
        (refused, SettingsError, "nothing to train on; epoch 1 is saved"),
        (unreachable, PluginError, r"errors\.py:\d+ in counted \(ConnectionError: no route\)"),
    ],
)
def test_it_costs_one_epoch_and_no_more(fail, kind, said, usual, settings, tmp_path, monkeypatch):
    whole, calls = usual
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing_from(2, patch, calls, fail)
        with pytest.raises(kind, match=said) as stopped:
            trained("run", settings, tmp_path)
    told = "".join([str(stopped.value), *getattr(stopped.value, "__notes__", [])])
    assert f"epoch 1 is saved; continue with: diffrl train --resume {run}" in told
    resumed = diffrl.resume(run, live=False)
    assert moments.BEGAN is None  # or the next run of this process would count from there
    for key in ("loss/value", "grad_norm", "reward/pickscore/mean"):
        assert resumed.metrics[2][key] == whole.metrics[2][key]


def test_an_error_while_pictures_are_drawn_for_an_evaluation_costs_nothing(
    usual, settings, tmp_path, monkeypatch
):
    whole, _ = usual
    run = tmp_path / "run"
    drawing, asked = Ddim.for_evaluation, []

    def failing(self, steps, eta):
        if run.exists():  # and not only planned
            asked.append(steps)
        if len(asked) > 2:  # of the model before training are two
            raise ValueError("of my own")
        return drawing(self, steps, eta)

    with monkeypatch.context() as patch:
        patch.setattr(Ddim, "for_evaluation", failing)
        with pytest.raises(ValueError, match="of my own"):
            trained("run", settings, tmp_path)
    again = diffrl.resume(run, live=False)
    for key in ("loss/value", "eval/pickscore/1-step", "reward/pickscore/mean"):
        assert again.metrics[2][key] == whole.metrics[2][key]


def others(*told):
    """Return the exchange of a process with others that fail in these ways."""
    ranks = object.__new__(Ranks)
    ranks.in_step, ranks.asked = False, lambda: 0
    ranks.accelerator = SimpleNamespace(process_index=0, num_processes=1 + len(told))
    ranks.everyones = lambda items: [*items, *((0, how) for how in told)]
    return ranks


@pytest.mark.parametrize(
    ("own", "told", "kind", "said"),
    [
        (None, (None,), None, ""),
        (None, (("saved", "no score"),), RewardError, "no score"),
        (None, (("plugin", "gave None"),), PluginError, "gave None"),
        (None, (("lost", "process 1: KeyError: 'a'"),), ProcessLost, "process 1: KeyError"),
        (RewardError("mine"), (("saved", "theirs"),), RewardError, "mine"),
        (PluginError("mine"), (None,), PluginError, "mine"),
        (RewardError("mine"), (("lost", "process 1: it"),), ProcessLost, "process 1: it"),
        (KeyError("mine"), (("saved", "theirs"),), KeyError, "mine"),
    ],
)
def test_processes_save_together_or_not_at_all(own, told, kind, said):
    with contextlib.ExitStack() as stack:
        raised = stack.enter_context(pytest.raises(kind, match=said)) if kind else None
        with refusing(others(*told)):
            if own is not None:
                raise own
    if kind is PluginError:
        assert raised.value.everywhere


def test_a_field_that_no_file_can_hold_is_refused_before_weights_load(tiny_sets):
    class Opaque(ClippedRatio):
        name: ClassVar[str] = "opaque"
        function: Any = print

    settings = resolve("ddpo", ["pickscore"], sets=tiny_sets)
    settings = replace(settings, recipe=settings.recipe.but(loss=Opaque()))
    with pytest.raises(SettingsError, match="Opaque has a field that cannot be written"):
        preflight(settings, None)


def test_a_saved_reward_is_not_taken_for_a_function_because_it_has_a_path():
    assert read_saved("mine", {"path": "json:loads", "weight": 1.0}).model_fields["path"]
    with pytest.raises(diffrl.errors.UnknownName):
        read_saved("mine", {"path": "json:loads", "strength": 3.0})
    with pytest.raises(diffrl.errors.UnknownName):
        read_saved("mine", {"path": "/models/x.safetensors", "weight": 1.0})

"""An error in a component's own code: the epoch is undone, and what was finished is saved."""

import pytest
from diffrl_ddpo.loss import ClippedRatio

import diffrl
from diffrl import moments
from diffrl.errors import PluginError
from diffrl.settings.rewards import read_saved


def failing_from(epoch, monkeypatch, tiny_updates, fail):
    """Let the loss fail from the first update of an epoch on."""
    call, count = ClippedRatio.__call__, [0]

    def counted(self, policy, batch):
        count[0] += 1
        return fail() if count[0] > tiny_updates * (epoch - 1) else call(self, policy, batch)

    monkeypatch.setattr(ClippedRatio, "__call__", counted)


@pytest.fixture
def settings(tiny_sets):
    return [*tiny_sets, "checkpoint.every=10", "train.micro_batch=64"]


@pytest.mark.parametrize(
    ("fail", "kind", "said"),
    [
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
        (lambda: None, PluginError, "loss 'clipped-ratio' gave None; expected LossOut"),
    ],
)
def test_it_costs_one_epoch_and_no_more(fail, kind, said, settings, tmp_path, monkeypatch):
    whole = diffrl.train(
        "ddpo", "pickscore", sets=settings, epochs=2, output=tmp_path / "whole", live=False
    )
    calls, call = [], ClippedRatio.__call__
    with monkeypatch.context() as patch:
        patch.setattr(ClippedRatio, "__call__", lambda *given: calls.append(0) or call(*given))
        diffrl.train(
            "ddpo", "pickscore", sets=settings, epochs=1, output=tmp_path / "one", live=False
        )
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        failing_from(2, patch, len(calls), fail)
        with pytest.raises(kind, match=said) as stopped:
            diffrl.train("ddpo", "pickscore", sets=settings, epochs=2, output=run, live=False)
    told = "".join([str(stopped.value), *getattr(stopped.value, "__notes__", [])])
    assert f"epoch 1 is saved; continue with: diffrl train --resume {run}" in told
    resumed = diffrl.resume(run, live=False)
    assert moments.BEGAN is None  # or the next run of this process would count from there
    for key in ("loss/value", "grad_norm", "reward/pickscore/mean"):
        assert resumed.metrics[2][key] == whole.metrics[2][key]


def test_a_saved_reward_is_not_taken_for_a_function_because_it_has_a_path():
    assert read_saved("mine", {"path": "json:loads", "weight": 1.0}).model_fields["path"]
    with pytest.raises(diffrl.errors.UnknownName):
        read_saved("mine", {"path": "json:loads", "strength": 3.0})

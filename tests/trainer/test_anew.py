"""What a run that goes on with other rewards forgets, and what it keeps."""

import inspect
from types import SimpleNamespace

import pytest
import torch

from diffrl import shelf
from diffrl.settings.resolve import resolve
from diffrl.settings.saved import dump
from diffrl.trainer import checkpoint, guard
from diffrl.trainer.anew import begin_anew
from diffrl.types import Memory

KNOWN = {
    "best:animal-accuracy": 1.0,
    "best:held": 1.0,
    "spread:animal-accuracy": 1.0,
    "spread:held": 1.0,
    "row:held_out": 1.0,
    "base:sharpness": 1.0,
}


def gone_on(folder, before, now, known=True):
    """Return what is left of a session that goes on from a checkpoint, and its notices."""
    (folder / "settings.toml").write_text(before if isinstance(before, str) else dump(before))
    session = SimpleNamespace(
        settings=now,
        epoch=4,
        ranks=SimpleNamespace(everyones=list),
        watch=dict(KNOWN),
        memory=Memory({("a fox", 4): torch.ones(3, 4)} if known else {}),
    )
    begin = inspect.unwrap(begin_anew)  # types are not checked
    return session, [one.rule for one in begin(session, folder)]


@pytest.mark.parametrize(
    "sets",
    [[], ["optimizer.lr=1"], ["sampler.steps=8"], ["eval.watch=[]"], ["loss.clip=0.1"]],
    ids=str,
)
def test_what_does_not_concern_rewards_changes_nothing(sets, tmp_path):
    before = resolve("sdpo", ["pickscore"])
    session, told = gone_on(tmp_path, before, resolve("sdpo", ["pickscore"], sets=sets))
    assert told == [] and session.memory.history and session.watch == KNOWN


@pytest.mark.parametrize(
    "sets",
    [
        ["rewards.pickscore.weight=2"],
        ["rewards.pickscore.precision=bf16"],
        ["reward_predictor=terminal"],
        ["advantage_estimator.gamma=0.5"],
    ],
    ids=str,
)
def test_statistics_of_other_rewards_begin_anew(sets, tmp_path):
    before, now = resolve("sdpo", ["pickscore"]), resolve("sdpo", ["pickscore"], sets=sets)
    session, told = gone_on(tmp_path, before, now)
    assert told == ["statistics"] and not session.memory.history and session.watch == KNOWN
    assert gone_on(tmp_path, before, now, known=False)[1] == []


def test_a_watched_reward_that_is_another_one_has_no_best_yet(tmp_path):
    before, now = (
        resolve("sdpo", ["pickscore"], watch=[f"held=http://127.0.0.1:{port}"]) for port in (1, 2)
    )
    session, told = gone_on(tmp_path, before, now)
    assert told == [] and session.memory.history
    assert session.watch.keys() == {
        "best:animal-accuracy",
        "spread:animal-accuracy",
        "base:sharpness",
    }


def test_a_server_that_is_asked_more_patiently_scores_alike(tmp_path):
    before, now = (
        resolve("sdpo", ["hps=http://127.0.0.1:1"], sets=[f"rewards.hps.timeout={seconds}"])
        for seconds in (5, 300)
    )
    session, told = gone_on(tmp_path, before, now)
    assert told == [] and session.memory.history


def test_settings_that_cannot_be_read_count_as_others(tmp_path):
    now = resolve("sdpo", ["pickscore"])
    gone = dump(now).replace('name = "anchors"', 'name = "of-a-plugin-that-is-gone"')
    assert gone != dump(now)
    session, told = gone_on(tmp_path, gone, now)
    assert told == ["statistics"]
    assert session.watch.keys() == {"best:held", "spread:held", "base:sharpness"}  # not watched now


def test_a_watchdog_that_goes_back_does_not_bring_the_old_statistics_with_it(tmp_path, monkeypatch):
    before = resolve("sdpo", ["pickscore"])
    (start := shelf.place(tmp_path, 2)).mkdir(parents=True)
    (start / "settings.toml").write_text(dump(before))
    saved, known = [], Memory({("a fox", 4): torch.ones(3, 4)})
    for sets in ([], ["rewards.pickscore.weight=2"]):
        session = SimpleNamespace(
            settings=resolve("sdpo", ["pickscore"], sets=sets), folder=tmp_path, epoch=4,
            ranks=SimpleNamespace(everyones=list, wait=lambda: None, is_main=False),
            policy=None, rng=None, progress={}, watch={}, memory=Memory(),
        )  # fmt: skip
        session.go_on = lambda at, session=session: vars(session).update(memory=at, watch={})
        monkeypatch.setattr(checkpoint, "load", lambda *_: known)
        monkeypatch.setattr(guard, "begin_anew", inspect.unwrap(begin_anew))
        monkeypatch.setattr(
            guard, "save", lambda session: saved.append(len(session.memory.history))
        )
        inspect.unwrap(guard.go_back)(session, 2, True)
    assert saved == [1, 0]

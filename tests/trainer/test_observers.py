"""Observers watch a run; they cannot end it."""

import json
import math

import pytest

import diffrl
from diffrl.events import EpochDone
from diffrl.folder import METRICS, NOTICES, read_lines, read_metrics
from diffrl.hookspecs import hookimpl
from diffrl.registry import registry
from diffrl.trainer.observers import FolderObserver


class Clumsy:
    """Fails in everything that it is told, what was noticed of itself, too."""

    def __init__(self):
        self.told = []

    @hookimpl
    def diffrl_evaluated(self, event):
        self.told.append(event.epoch)
        raise ValueError("no hands")

    @hookimpl
    def diffrl_update_done(self):
        raise RuntimeError("no feet")

    @hookimpl
    def diffrl_noticed(self, event):
        raise OSError("no ears")


class Careful(Clumsy):
    """Hears what there is to hear."""

    @hookimpl
    def diffrl_evaluated(self, event):
        self.told.append(event.epoch)

    diffrl_update_done = diffrl_noticed = None


@pytest.fixture
def watching():
    observers = Clumsy(), Careful()
    for one in observers:
        registry().register(one)
    yield observers
    for one in observers:
        registry().unregister(one)


def test_an_observer_that_fails_is_noticed_once_and_the_run_goes_on(watching, tiny_sets, tmp_path):
    folder = tmp_path / "run"
    diffrl.train("sdpo", "pickscore", sets=tiny_sets, epochs=2, output=folder, live=False)
    clumsy, careful = watching
    assert clumsy.told == careful.told == [0, 2]
    assert [line["epoch"] for line in read_metrics(folder)] == [0, 1, 2]
    (said,) = [n for n in read_lines(folder / NOTICES) if n["source"] == "observer"]
    assert said["message"] == (
        "observer 'Clumsy' failed in diffrl_evaluated (ValueError: no hands); the run goes on "
        "without that"
    )


def test_figures_that_are_no_numbers_are_left_out_of_the_file(tmp_path):
    def refuse(word):
        raise ValueError(f"{word} is no JSON")

    observer = FolderObserver()
    observer._folder = tmp_path
    metrics = {"samples": 8.0, "log_prob_gap/max": math.nan, "kl/1-step": math.inf, "lr": 0.5}
    observer.diffrl_update_done(EpochDone(1, 2, metrics))
    line = json.loads((tmp_path / METRICS).read_text(), parse_constant=refuse)
    assert line == {"samples": 8, "lr": 0.5, "epoch": 1}


def test_what_writes_the_runs_own_files_may_not_fail(tiny_sets, tmp_path, monkeypatch):
    def torn(*_):
        raise ValueError("torn")

    monkeypatch.setattr("diffrl.trainer.observers.append_line", torn)
    with pytest.raises(ValueError, match="torn"):
        diffrl.train("sdpo", "pickscore", sets=tiny_sets, epochs=1, output=tmp_path, live=False)


class Piped(Clumsy):
    """Writes into a pipe that is closed, which rich takes for the end."""

    @hookimpl
    def diffrl_update_done(self):
        raise SystemExit(1)

    diffrl_evaluated = diffrl_noticed = None


def test_a_closed_pipe_ends_no_run(tiny_sets, tmp_path):
    registry().register(piped := Piped())
    try:
        run = diffrl.train(
            "sdpo", "pickscore", sets=tiny_sets, epochs=1, output=tmp_path / "run", live=False
        )
    finally:
        registry().unregister(piped)
    (said,) = [n for n in read_lines(run.folder / NOTICES) if n["source"] == "observer"]
    assert "nobody reads its output any more" in said["message"] and run.epoch == 1

"""Observers watch a run; they cannot end it."""

import pytest

import diffrl
from diffrl.folder import NOTICES, read_lines, read_metrics
from diffrl.hookspecs import hookimpl
from diffrl.registry import registry


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


@pytest.fixture
def watching(request):
    observers = [Clumsy(), request.param()]
    for one in observers:
        registry().register(one)
    yield observers
    for one in observers:
        registry().unregister(one)


class Careful:
    """Hears what there is to hear."""

    def __init__(self):
        self.told = []

    @hookimpl
    def diffrl_evaluated(self, event):
        self.told.append(event.epoch)


@pytest.mark.parametrize("watching", [Careful], indirect=True)
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


def test_what_writes_the_runs_own_files_may_not_fail(tiny_sets, tmp_path, monkeypatch):
    def torn(*_):
        raise ValueError("torn")

    monkeypatch.setattr("diffrl.trainer.observers.append_line", torn)
    with pytest.raises(ValueError, match="torn"):
        diffrl.train("sdpo", "pickscore", sets=tiny_sets, epochs=1, output=tmp_path, live=False)

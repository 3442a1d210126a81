"""Metrics and pictures reach TensorBoard and Weights & Biases."""

import re
import time
from types import SimpleNamespace

import pytest
import torch

import diffrl
from diffrl.errors import SettingsError
from diffrl.events import EpochDone, Evaluated, Noticed, RunStarted
from diffrl.settings.resolve import resolve
from diffrl.trainer.ranks import Ranks, accelerator, log_into
from diffrl.trainer.trackers import TrackerObserver, tracker_problems


def test_tensorboard_gets_metrics_and_pictures(tiny_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(tiny_run.folder / "tensorboard"))
    seen.Reload()
    tags = seen.Tags()
    assert "reward/pickscore/mean" in tags["scalars"]
    assert [event.step for event in seen.Scalars("epoch")] == [0, 1, 2, 3, 4]
    assert tags["images"] == ["pictures"]
    assert [event.step for event in seen.Images("pictures")] == [0, 2, 4]


def test_tensorboard_forgets_epochs_that_a_run_goes_back_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = accelerator("cpu", "fp32")
    log_into(tmp_path, made)
    settings = resolve("sdpo", ["pickscore"], "emoji")
    observer = TrackerObserver(made)
    observer.diffrl_run_started(RunStarted(tmp_path, settings, 0))
    for epoch, value in ((0, 1.0), (1, 2.0), (2, 3.0)):
        observer.diffrl_update_done(EpochDone(epoch, 3, {"loss/value": value}))
    time.sleep(1.1)  # files are read in the order of their names, which hold the second
    observer.diffrl_noticed(Noticed(2, "watchdog", "kl", "far", "rollback to epoch 1", back_to=1))
    observer.diffrl_update_done(EpochDone(2, 3, {"loss/value": 4.0}))
    for tracker in made.trackers:
        tracker.finish()
    seen = EventAccumulator(str(tmp_path / "tensorboard"))
    seen.Reload()
    assert [(e.step, e.value) for e in seen.Scalars("loss/value")] == [(0, 1.0), (1, 2.0), (2, 4.0)]


@pytest.mark.filterwarnings("ignore")
def test_wandb_gets_both_offline_and_a_resumed_run_goes_on(tiny_sets, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, sets = tmp_path / "run", [*tiny_sets, "train.track=['wandb']"]
    diffrl.train("sdpo", "pickscore", sets=sets, epochs=1, output=folder, live=False)
    assert not (folder / "tensorboard").exists()
    (first,) = (folder / "wandb").glob("offline-run-*")
    assert list(first.glob("*.wandb")) and list(first.rglob("pictures*.png"))
    diffrl.resume(folder, epochs=2, live=False)
    runs = list((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 2 and len({run.name.rpartition("-")[2] for run in runs}) == 1
    (second,) = (run for run in runs if run != first)
    key = "reward/pickscore/mean"
    for run, epoch in ((first, 1), (second, 2)):
        (file,), value = run.glob("*.wandb"), diffrl.Run(folder).metrics[epoch][key]
        logged = f"{key}.{{1,9}}{re.escape(str(value))}"  # in between, what tells their lengths
        assert re.search(logged.encode(), file.read_bytes(), re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_several_trackers_are_each_started_once(tiny_sets, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    sets = [*tiny_sets, "train.track=['tensorboard', 'wandb']"]
    folder = tmp_path / "run"
    diffrl.train("sdpo", "pickscore", sets=sets, epochs=1, output=folder, live=False)
    assert len(list((folder / "tensorboard").glob("events*"))) == 1
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.filterwarnings("ignore")
def test_wandb_without_a_key_is_told_before_anything_loads(tmp_path, monkeypatch):
    set_up = SimpleNamespace(settings=SimpleNamespace(mode="online"))
    monkeypatch.setattr("wandb.setup", lambda: set_up)
    monkeypatch.setattr("wandb.api", SimpleNamespace(api_key=None))
    with pytest.raises(SettingsError, match="run wandb login, or set WANDB_MODE=offline"):
        diffrl.train(
            "sdpo", "pickscore", sets=["train.track=['wandb']"], output=tmp_path / "run",
            live=False,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
    set_up.settings.mode = "offline"
    assert tracker_problems(["wandb"]) == []


def test_a_tracker_that_does_not_start_is_told_in_one_line(tiny_sets, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no room\nfor logs")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.start", refuse)
    with pytest.raises(SettingsError, match="'tensorboard' did not start: no room for logs"):
        diffrl.train("sdpo", "pickscore", sets=tiny_sets, output=tmp_path / "run", live=False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wand", "no tracker is called 'wand'. Did you mean wandb?"),
        ("clearml", "'clearml' is not installed; pip install clearml"),
    ],
)
def test_a_tracker_that_is_not_there_is_told_before_anything_loads(name, said, tmp_path):
    with pytest.raises(SettingsError, match=r"train\.track") as refused:
        diffrl.train(
            "sdpo", "pickscore", sets=[f"train.track=['{name}']"], output=tmp_path / "run",
            live=False,
        )  # fmt: skip
    assert said in str(refused.value)
    assert not (tmp_path / "run").exists()


class Keeper:
    """What a third party's tracker is: an observer."""

    def __init__(self):
        self.seen = []

    @diffrl.hookimpl
    def diffrl_update_done(self, event):
        self.seen.append(("metrics", event.epoch))

    @diffrl.hookimpl
    def diffrl_evaluated(self, event):
        self.seen.append(("pictures", event.epoch, len(event.text)))


def test_an_observer_plugin_sees_what_trackers_see(tiny_sets, tmp_path):
    from diffrl.registry import registry

    keeper = Keeper()
    registry().register(keeper)
    try:
        diffrl.train(
            "sdpo", "pickscore", sets=tiny_sets, epochs=1, output=tmp_path / "r", live=False
        )
    finally:
        registry().unregister(keeper)
    assert keeper.seen == [("pictures", 0, 3), ("metrics", 0), ("pictures", 1, 3), ("metrics", 1)]


class Service:
    """A tracker of a service, which may be gone."""

    def __init__(self, name, gone=False):
        self.name, self.gone, self.heard = name, gone, []

    def log(self, values, step):
        self._answer("log")

    def log_images(self, values, step):
        self._answer(values["pictures"].ndim)

    def finish(self):
        self._answer("finish")

    def _answer(self, what):
        if self.gone:
            raise RuntimeError("gone")
        self.heard.append(what)


def test_a_service_that_is_gone_keeps_nothing_from_the_others():
    here, one = Service("comet_ml"), Service("clearml")
    made = SimpleNamespace(trackers=[Service("mlflow", gone=True), here, one])
    observer = TrackerObserver(made)
    with pytest.raises(RuntimeError, match="gone"):
        observer.diffrl_update_done(EpochDone(1, 3, {"loss/value": 1.0}))
    picture = torch.zeros(1, 1, 3, 8, 8)
    with pytest.raises(RuntimeError, match="gone"):
        observer.diffrl_evaluated(Evaluated(1, (1,), ("a fox",), picture, {}, ("a fox",), {}))
    ranks = object.__new__(Ranks)
    ranks.accelerator = made
    assert ranks.finish() == ["the tracker 'mlflow' could not be closed (RuntimeError: gone)"]
    assert here.heard == ["log", 4, "finish"] and one.heard == ["log", 3, "finish"]

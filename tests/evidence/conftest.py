"""Short runs of a small random pipeline, to judge."""

import pytest

import diffrl
from diffrl.testing.tiny import save_tiny_clip, save_tiny_pipeline


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def sets(model, clip):
    return [
        f"model.ref={model}", f"rewards.pickscore.checkpoint={clip}", "train.trajectories=8",
        "eval.images=12", "eval.shown=2", "eval.steps=[1, 2]", "eval.every=1", "eval.watch=[]",
        "checkpoint.every=1", "optimizer.lr=1e-2", "sampler.steps=2",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def runs(sets, tmp_path_factory):
    """Two runs of SDPO and two of DDPO: `sdpo/1`, `sdpo/2`, `ddpo/1`, `ddpo/2`."""
    folder = tmp_path_factory.mktemp("runs")
    for algo in ("sdpo", "ddpo"):
        for seed in (1, 2):
            diffrl.train(
                algo, "pickscore", watch=["jpeg-compressibility"], sets=sets, epochs=2, seed=seed,
                output=folder / algo / str(seed), live=False,
            )  # fmt: skip
    return folder


@pytest.fixture
def unplotted(monkeypatch):
    """Leaves the curves out of pages, which are most of their time."""
    monkeypatch.setattr("diffrl.report.charts.save", lambda wanted, _: ["<svg/>"] * len(wanted))


@pytest.fixture
def command(capsys):
    """Runs the command line in this process; returns exit code, output and errors."""
    from diffrl.cli import main

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        told = capsys.readouterr()
        return stopped.value.code or 0, told.out, told.err

    return run

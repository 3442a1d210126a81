import json
import shutil
import subprocess
import sys

import pytest
import torch

from diffrl.errors import ResumeError
from diffrl.settings.resolve import load
from diffrl.trainer import run, train
from diffrl.trainer.checkpoint import newest, prune

TIMED = ("seconds", "samples_per_second")


def untimed(metrics):
    return [{k: v for k, v in m.items() if not k.startswith(TIMED)} for m in metrics]


@pytest.fixture(scope="module")
def cut_run(tiny_sets, tmp_path_factory):
    """Two epochs, then a new process that goes on to the fourth."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    train("sdpo", "pickscore", sets=tiny_sets, epochs=2, output=folder, live=False)
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from diffrl.settings.resolve import load; from diffrl.trainer import run\n"
        "folder = Path(sys.argv[1])\n"
        "flags = {'train.epochs': (4, '--epochs 4')}\n"
        "run(load(folder / 'settings.toml', flags=flags), resume=folder)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True)
    return folder


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny_run, cut_run):
    whole, cut = (
        torch.load(f / "checkpoints" / "4" / "trainer_state.pt", weights_only=True)
        for f in (tiny_run.folder, cut_run)
    )
    for name, weight in whole["trained"].items():
        assert torch.equal(weight, cut["trained"][name])
    for source in ("rng", "noise_rng"):
        assert torch.equal(whole["random"][0][source], cut["random"][0][source])
    for (a, n, h), (b, m, g) in zip(whole["memory"], cut["memory"], strict=True):
        assert (a, n) == (b, m)
        assert torch.equal(h, g)


def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tiny_run, cut_run):
    lines = [json.loads(line) for line in (cut_run / "metrics.jsonl").read_text().splitlines()]
    # The shorter run also evaluated at its own end, epoch 2, as the longer one did.
    assert untimed(lines) == untimed(tiny_run.metrics)


def test_epochs_after_the_checkpoint_are_written_anew(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    run(load(folder / "settings.toml"), resume=folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert untimed(lines) == untimed(tiny_run.metrics)


def test_a_half_written_checkpoint_is_not_taken(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    (folder / "checkpoints" / "4").rename(folder / "checkpoints" / ".4.partial")
    assert newest(folder).name == "3"


def test_a_damaged_checkpoint_is_named(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    state = folder / "checkpoints" / "4" / "trainer_state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ResumeError, match=r"checkpoints/4 cannot be read"):
        run(load(folder / "settings.toml"), resume=folder)


def test_a_run_without_checkpoints_cannot_be_resumed(tmp_path):
    with pytest.raises(ResumeError, match="no checkpoint"):
        newest(tmp_path)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for n in (1, 2, 10, 9):
        (tmp_path / "checkpoints" / str(n)).mkdir(parents=True)
    prune(tmp_path, 0)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
    prune(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "9"]

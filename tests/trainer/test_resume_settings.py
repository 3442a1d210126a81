"""What a resumed run may change, and what it has decided already."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from diffrl.errors import SettingsError
from diffrl.evidence.files import in_training
from diffrl.folder import read_lines
from diffrl.settings.resolve import load, resolve
from diffrl.shelf import newest
from diffrl.trainer import Run, checkpoint, lock, run
from diffrl.trainer.opening import open_prompts
from diffrl.trainer.preflight import preflight


def test_a_resumed_run_takes_the_optimizer_settings_that_are_asked_for(tiny_run, tmp_path):
    weights = []
    for decay in (0.0, 100.0):
        folder = tmp_path / str(decay)
        shutil.copytree(tiny_run.folder, folder)
        flags = {"train.epochs": (5, "--epochs 5"), "optimizer.weight_decay": (decay, "--set")}
        run(load(folder / "settings.toml", flags=flags), resume=folder)
        weights.append(checkpoint.read(folder / "checkpoints/5")["trained"])
    first, second = (torch.cat([w.flatten() for w in one.values()]) for one in weights)
    assert second.norm() < 0.95 * first.norm()


def test_a_resumed_run_takes_the_optimizer_kernels_that_are_asked_for(tiny_run, tmp_path):
    found = []
    for fused in ("off", "on"):
        folder = tmp_path / fused
        shutil.copytree(tiny_run.folder, folder)
        flags = {"train.epochs": (5, "--epochs 5"), "optimizer.fused": (fused, "--set")}
        run(load(folder / "settings.toml", flags=flags), resume=folder)
        found.append(checkpoint.read(folder / "checkpoints/5"))
    for state, fused in zip(found, (None, True), strict=True):
        assert [group["fused"] for group in state["optimizer"]["param_groups"]] == [fused]
    for name, weight in found[0]["trained"].items():
        torch.testing.assert_close(found[1]["trained"][name], weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        (("train.epochs", 1), "has 4 epochs already; name the total, 5 for 1 more, or go back"),
        (("train.seed", 7), "leave it out, or begin again with --resume"),
        (("eval.seed", 7), "was evaluated with 1234; leave it as it is, and judge otherwise with"),
        (("eval.images", 2), "was evaluated with 3; leave it as it is, and judge otherwise with"),
        (("eval.prompts", "unseen"), "picture 1 would be 'A green colored rabbit'; "),
        (("sampler", "lcm"), "was evaluated with 'ddim'; leave it as it is, and judge otherwise"),
    ],
)
def test_a_resumed_run_takes_no_other_past(flag, said, tiny_run, tmp_path):
    folder, (name, value) = tmp_path / "run", flag
    shutil.copytree(tiny_run.folder, folder)
    before = (folder / "settings.toml").read_text()
    asked = load(folder / "settings.toml", flags={name: (value, f"--set {name}={value}")})
    with pytest.raises(SettingsError, match=re.escape(said)):
        run(asked, resume=folder)
    assert (folder / "settings.toml").read_text() == before
    assert newest(folder).name == "4"


def test_a_run_that_begins_again_takes_another_seed(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    flags = {"train.seed": (7, "--set"), "train.epochs": (1, "--epochs 1")}
    asked = load(folder / "settings.toml", flags=flags)
    again = run(asked, resume=folder, at=0)
    assert again.settings.train.seed == 7 and [m["epoch"] for m in again.metrics] == [0, 1]


@pytest.mark.parametrize(
    ("best", "said"),
    [
        (
            "eval/pickscor/2-step",
            "no evaluation gives that; expected eval/NAME/STEPS-step, of pick",
        ),
        ("-eval/pickscore/3-step", "score in 1, 2 steps. Did you mean eval/pickscore/"),
        ("-eval/pickscore/2-step", None),
        ("loss/value", None),
    ],
)
def test_a_best_metric_that_no_evaluation_gives_is_refused(best, said, tiny_sets):
    settings = resolve("sdpo", ["pickscore"], "emoji", sets=[*tiny_sets, f"checkpoint.best={best}"])
    if said is None:
        preflight(settings, None)
    else:
        with pytest.raises(SettingsError, match=re.escape(said)):
            preflight(settings, None)


def test_what_a_run_goes_on_with_is_noticed(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    prompts = tmp_path / "mine.txt"
    prompts.write_text("\n".join(open_prompts("animals")))
    flags = {"train.epochs": (5, "--epochs 5"), "optimizer.weight_decay": (0.5, "--set")}
    flags["train.prompts"] = (str(prompts), "--prompts")
    run(load(folder / "settings.toml", flags=flags), resume=folder)
    (told,) = [one for one in read_lines(folder / "notices.jsonl") if one["source"] == "run"]
    assert (told["epoch"], told["rule"]) == (4, "settings")
    assert re.search(r"other settings: optimizer\.weight_decay .* → 0\.5; ", told["message"])
    prompts.write_text("\n".join([*open_prompts("animals"), "a yeti"]))
    run(load(folder / "settings.toml", flags={"train.epochs": (6, "--epochs 6")}), resume=folder)
    first, other = [one for one in read_lines(folder / "notices.jsonl") if one["source"] == "run"]
    assert first == told and (other["epoch"], other["rule"]) == (5, "prompts")
    assert other["message"].startswith("the prompts are others than those of the checkpoint")


def test_one_process_at_a_time_goes_on_with_a_run(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    command = [sys.executable, "-m", "diffrl", "train", "--resume", str(folder), "--epochs", "5"]
    lock.hold(folder)
    try:
        refused = subprocess.run(command, capture_output=True, text=True)
    finally:
        lock.let_go(folder)
    assert refused.returncode == 2 and "is being trained by another process" in refused.stderr
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert newest(folder).name == "5"


def test_rewards_have_the_settings_that_they_scored_with(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    path = folder / "settings.toml"
    text = path.read_text("utf-8")
    path.write_text(text.replace('precision = "fp32"', 'precision = "bf16"'), "utf-8")
    assert path.read_text("utf-8") != text
    found = in_training(Run(folder), 4).rewards["pickscore"]["precision"]
    assert (found, Run(folder).settings.rewards[0].reward.precision) == ("fp32", "bf16")


def gone_on(tiny_run, folder, **flags):
    """Return how many returns a run knows after an epoch with other settings; was it told?"""
    shutil.copytree(tiny_run.folder, folder)
    named = {name.replace("__", "."): (value, "--set") for name, value in flags.items()}
    asked = load(folder / "settings.toml", flags={"train.epochs": (5, "--epochs 5"), **named})
    run(asked, resume=folder)
    known = sum(len(past) for _, _, past in checkpoint.read(folder / "checkpoints/5")["memory"])
    return known, "statistics" in [one["rule"] for one in read_lines(folder / "notices.jsonl")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rewards__pickscore__weight", 10.0),
        ("reward_predictor", "terminal"),
        ("advantage_estimator__gamma", 0.5),
    ],
)
def test_statistics_of_returns_of_another_scale_begin_anew(name, value, tiny_run, tmp_path):
    before, anew = gone_on(tiny_run, tmp_path / "as it was", optimizer__lr=1e-3)
    assert not anew
    after, anew = gone_on(tiny_run, tmp_path / "other", **{name: value})
    assert anew and after < before

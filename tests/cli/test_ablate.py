"""`diffrl ablate`: a grid of runs, kept when it is interrupted, in one table."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from diffrl.cli import main
from diffrl.cli.ablation_report import plot, summary, table
from diffrl.cli.grid import Plan, digest, grid, slug, usual_folder, varied
from diffrl.errors import SettingsError
from diffrl.testing.tiny import save_tiny_clip, save_tiny_pipeline

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "train.trajectories=4", "sampler.steps=2", "eval.images=2", "eval.shown=1",
    "eval.steps=[1, 2]", "eval.watch=[]", "train.track=[]", "optimizer.lr=3e-2",
)  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Settings of runs of a few seconds, on a random pipeline."""
    place = tmp_path_factory.mktemp("tiny")
    model, clip = save_tiny_pipeline(place / "model"), save_tiny_clip(place / "clip")
    return (*SMALL, f"model.ref={model}", f"rewards.pickscore.checkpoint={clip}")


@pytest.fixture
def ablated(capsys, monkeypatch, small):
    """Runs the command; returns its exit code and what it said."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*argv):
        sets = [word for one in small for word in ("--set", one)]
        with pytest.raises(SystemExit) as stopped:
            main(["ablate", "--algo", "sdpo", "--reward", "pickscore", *sets, *argv])
        out, err = capsys.readouterr()
        return stopped.value.code, " ".join((out + err).split())

    return run


def test_a_grid_is_run_kept_and_tabled(ablated, tmp_path):
    folder = tmp_path / "grid"
    argv = ("--vary", "gamma=0.99,0", "--seeds", "2", "--epochs", "1", "--set", "train.seed=5")
    argv += ("--output", str(folder))
    code, said = ablated(*argv, "--jobs", "2")
    assert code == 0 and "4 runs, 0 finished before" in said
    cells = {str(p.relative_to(folder / "runs")) for p in folder.glob("runs/*/seed-?")}
    assert cells == {f"gamma={g}/seed-{s}" for g in ("0", "0.99") for s in (5, 6)}
    rows = json.loads((folder / "table.json").read_text())
    curves = json.loads((folder / "curves.json").read_text())
    assert list(curves) == list(rows)
    for name, seeds in curves.items():
        for key, after in rows[name]["after"].items():
            assert [seed[key][-1] for seed in seeds] == after
    assert list(rows) == ["gamma=0.99", "gamma=0"]
    for row in rows.values():
        assert row["seeds"] == 2 and len(row["after"]["eval/pickscore/2-step"]) == 2
        assert all(q > 0 for q in row["reward_queries"])
    first, second = rows["gamma=0.99"]["after"]["eval/pickscore/2-step"]
    assert first != second
    text = (folder / "table.md").read_text()
    assert "±" in text and "| before training |" in text
    for axis in ("samples", "seconds"):
        assert (folder / f"reward-over-{axis}.png").stat().st_size > 5000
    kept = (folder / "runs" / "gamma=0" / "seed-5" / "metrics.jsonl").read_bytes()
    shutil.rmtree(folder / "runs" / "gamma=0.99" / "seed-6")
    again = ablated(*argv)
    assert again[0] == 0 and "4 runs, 3 finished before" in again[1]
    assert (folder / "runs" / "gamma=0" / "seed-5" / "metrics.jsonl").read_bytes() == kept
    assert json.loads((folder / "table.json").read_text())["gamma=0.99"]["seeds"] == 2
    code, said = ablated("--vary", "gamma=0.5", "--output", str(folder))
    assert code == 2 and "holds another ablation" in said


def test_all_wrong_cells_are_named_before_the_first_run(ablated, tmp_path):
    folder = tmp_path / "grid"
    code, said = ablated("--vary", "anchor=fixed,rnd", "--vary", "gamma=2", "--output", str(folder))
    assert code == 2 and not folder.exists()
    for expected in ("anchor=fixed gamma=2: ", "anchor=rnd gamma=2: ", "'rnd': input should be"):
        assert expected in said


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--vary", "train.prompts=animals,nofile.txt"), "train.prompts=nofile.txt: no prompts"),
        (("--vary", "gamma=0.9,0.9"), "gamma=0.9: the same settings as those of gamma=0.9;"),
        (("--vary", "gamma=1,1.0"), "gamma=1.0: the same settings as those of gamma=1; leave"),
        (
            ("--vary", "gamma=1,0.9", "--vary", "advantage_estimator.gamma=0.5"),
            "gamma=0.9 advantage_estimator.gamma=0.5: the same settings as",
        ),
        (
            ("--vary", "gamma=0.9,0.99", "--vary", "gamma=1"),
            "gamma is varied 2 times; write it once, --vary gamma=0.9,0.99,1",
        ),
        (("--set", 'train.track=["nosuch"]'), "no tracker is called 'nosuch'"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_the_first_run(argv, expected, ablated, tmp_path):
    folder = tmp_path / "grid"
    code, said = ablated(*argv, "--output", str(folder))
    assert code == 2 and expected in said and not folder.exists()


def test_an_output_that_cannot_be_used_is_refused(ablated, tmp_path):
    file, damaged = tmp_path / "file", tmp_path / "damaged"
    file.write_text("")
    damaged.mkdir()
    (damaged / "ablation.json").write_text("{")
    for place, expected in ((file, "choose another --output"), (damaged, "cannot read")):
        code, said = ablated("--vary", "gamma=1", "--output", str(place))
        assert code == 2 and expected in said and "Traceback" not in said


def test_a_config_that_was_edited_is_another_ablation(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("[train]\nseed = 1\n")
    plans = []
    for seed in (1, 2):
        config.write_text(f"[train]\nseed = {seed}\n")
        plans.append(Plan("sdpo", [], "emoji", str(config), [], [], 1, 1, digest(config)))
    assert usual_folder(plans[0]) != usual_folder(plans[1])
    assert digest(tmp_path / "none.toml") is None


def test_values_are_split_at_commas_outside_brackets():
    assert varied("gamma=0.99, 0.9") == ["gamma=0.99", "gamma=0.9"]
    assert varied("eval.steps=[1, 2],[4]") == ["eval.steps=[1, 2]", "eval.steps=[4]"]
    for wrong in ("gamma", "gamma=", "=1", "gamma=1,,2"):
        with pytest.raises(SettingsError, match="expected KEY=VALUE,VALUE"):
            varied(wrong)


def test_algorithms_can_be_varied(tmp_path):
    plan = Plan(None, ["pickscore"], "emoji", None, [], ["algo=sdpo,ddpo", "gamma=1,0.9"], 1, 2)
    cells = list(grid(plan, tmp_path))
    assert [(cell.algo, cell.settings) for cell in cells] == [
        ("sdpo", ["gamma=1"]), ("sdpo", ["gamma=0.9"]),
        ("ddpo", ["gamma=1"]), ("ddpo", ["gamma=0.9"]),
    ]  # fmt: skip
    assert cells[0].name == "algo=sdpo gamma=1"


@pytest.mark.parametrize(("algo", "vary"), [(None, ["gamma=1"]), ("sdpo", ["algo=sdpo,ddpo"])])
def test_the_algorithm_is_named_once(tmp_path, algo, vary):
    plan = Plan(algo, ["pickscore"], "emoji", None, [], vary, 1, 2)
    with pytest.raises(SettingsError, match="either with --algo or with --vary algo="):
        grid(plan, tmp_path)


def test_every_setting_of_the_manual_can_be_varied(tmp_path):
    """The rows of `docs/ablate.md`, on SDPO with the steps of a longer trajectory."""
    text = (ROOT / "docs" / "ablate.md").read_text("utf-8")
    cells = re.findall(r"^\| [^|]+ \| (`[^|]+`) \|$", text, re.M)
    found = [re.findall(r"`([^`]+)`", cell) for cell in cells]
    assert len(found) >= 9
    for first, *more in found:
        plan = Plan("sdpo", ["pickscore"], "emoji", None, more, [first], 1, 2)
        assert len(list(grid(plan, tmp_path))) >= 2, first


def test_cells_have_folders_that_can_be_made_and_told_apart():
    assert slug(["gamma=0.9", "sampler.lengths=[4,2]"]) == "gamma=0.9_sampler.lengths=_4_2_"
    names = [slug([f"train.prompts={name}.txt"]) for name in ("猫", "犬", "a" * 300, "a" * 301)]
    assert len(set(names)) == 4 and all(len(name.encode()) < 255 for name in names)


def test_the_same_plan_has_the_same_folder_and_seeds_outrank_settings(tmp_path):
    plan = Plan("sdpo", ["a.b:c:2"], "emoji", None, ["train.seed=7"], ["gamma=1,0.9"], 2, 2)
    assert usual_folder(plan) == usual_folder(replace(plan))
    assert usual_folder(plan) != usual_folder(replace(plan, seeds=3))
    assert usual_folder(plan).name.startswith("sdpo-a.b-c-2-")
    known = replace(plan, rewards=["pickscore"])
    assert [cell.seed for cell in grid(known, tmp_path)] == [7, 8, 7, 8]
    assert [cell.seed for cell in grid(replace(known, sets=[]), tmp_path)] == [42, 43, 42, 43]


def test_cells_with_other_evaluations_share_a_table():
    costs = {"seconds": [1.0, 3.0], "reward_queries": [4.0, 4.0], "seeds": 2}
    rows = {
        name: {**{when: {key: [1.0, 2.0] for key in keys} for when in ("before", "after")}, **costs}
        for name, keys in (("a", ("eval/r/1-step", "eval/r/2-step")), ("b", ("eval/r/2-step",)))
    }
    text = table(rows)
    assert "r 2-step" in text and "r 1-step" not in text
    assert "2 ± 1" in text and text.count("before training |") == 1
    rows["b"]["before"]["eval/r/2-step"] = [3.0, 4.0]  # of another sampler
    assert "| before training, `a` |  | 1.50 |" in table(rows)
    assert "| before training, `b` |  | 3.50 |" in table(rows)


def test_a_figure_that_a_seed_lacks_is_left_out(tmp_path):
    def run(*lacking):
        line = {"samples": 1, "seconds": 1.0, "reward/r/mean": 1.0, "eval/r/1-step": 2.0}
        return [{k: v for k, v in line.items() if (e, k) not in lacking} for e in range(4)]

    seeds = [run(), run((0, "eval/r/1-step"), (2, "reward/r/mean"))]
    assert summary(seeds)["after"] == {}
    assert summary([run(), run((2, "eval/r/1-step"))])["after"] == {"eval/r/1-step": [2.0, 2.0]}
    plot(tmp_path / "curves.png", {"a": seeds}, "samples")
    assert (tmp_path / "curves.png").stat().st_size > 1000

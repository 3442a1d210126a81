import json
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

import diffrl
from diffrl.errors import ResumeError, SettingsError
from diffrl.folder import append_line, read_lines
from diffrl.settings.resolve import load
from diffrl.shelf import newest, prune, seal, tidy
from diffrl.trainer import checkpoint, run, train
from diffrl.trainer.packing import write_packed

STATE = "trainer_state.safetensors"

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
    whole, cut = (checkpoint.read(f / "checkpoints" / "4") for f in (tiny_run.folder, cut_run))
    for name, weight in whole["trained"].items():
        assert torch.equal(weight, cut["trained"][name])
    for source in ("rng", "torch"):
        assert torch.equal(whole["random"][0][source], cut["random"][0][source])
    for (a, n, h), (b, m, g) in zip(whole["memory"], cut["memory"], strict=True):
        assert (a, n) == (b, m)
        assert torch.equal(h, g)


def test_metrics_of_a_resumed_run_equal_those_of_an_uninterrupted_one(tiny_run, cut_run):
    lines = [json.loads(line) for line in (cut_run / "metrics.jsonl").read_text().splitlines()]
    # The shorter run also evaluated at its own end, epoch 2, as the longer one did.
    assert untimed(lines) == untimed(tiny_run.metrics)


def test_full_finetuning_resumes_bit_for_bit_whatever_the_layout_of_its_weights(
    tiny_sets, tmp_path
):
    sets = [*tiny_sets, "adapter.kind=full", "optimizer.lr=1e-4", "optimizer.fused=on"]
    sets += ["speed.channels_last=true", "eval.every=0"]
    found = []
    for name, epochs in (("whole", 3), ("cut", 2)):
        folder = tmp_path / name
        train("sdpo", "pickscore", sets=sets, epochs=epochs, output=folder, live=False)
        if epochs < 3:
            flags = {"train.epochs": (3, "--epochs 3")}
            run(load(folder / "settings.toml", flags=flags), resume=folder)
        found.append(checkpoint.read(folder / "checkpoints" / "3")["trained"])
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name]), name


def test_epochs_after_the_checkpoint_are_written_anew_and_what_they_left_goes(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "4")
    (folder / "evaluations" / "00007.json").write_text("{}")
    (folder / "images" / "00007.png").write_bytes(b"")
    diffrl.resume(folder, live=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert untimed(lines) == untimed(tiny_run.metrics)
    for place, suffix in (("evaluations", "json"), ("images", "png")):
        left = sorted(p.name for p in (folder / place).glob(f"0*.{suffix}"))
        assert left == [f"0000{n}.{suffix}" for n in (0, 2, 4)]
        for name in left:
            whole = (tiny_run.folder / place / name).read_bytes()
            assert (folder / place / name).read_bytes() == whole
    assert (folder / "images" / "before-after.png").exists()


def test_a_checkpoint_is_no_run_and_says_how_to_go_on_from_it(tiny_run):
    one = tiny_run.folder / "checkpoints" / "2"
    with pytest.raises(ResumeError) as refused:
        diffrl.resume(one, live=False)
    assert "it is a checkpoint" in str(refused.value)
    assert str(refused.value).endswith(f"diffrl train --resume {tiny_run.folder.resolve()}@2")
    assert not (one / "checkpoints").exists()


def test_resuming_a_finished_run_takes_nothing_away(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    diffrl.resume(folder, live=False)
    after = {p.relative_to(folder) for p in folder.rglob("*")}
    assert set(before) <= after
    for path in (p for p in before if p.parts[0] in ("checkpoints", "metrics.jsonl")):
        assert (folder / path).read_bytes() == before[path]


def test_a_run_that_ends_earlier_than_planned_is_evaluated_at_its_end(tiny_sets, tmp_path):
    sets = [*tiny_sets, "eval.every=0", "optimizer.lr=1e-3"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    diffrl.train("sdpo", "pickscore", sets=sets, epochs=2, output=whole, live=False)
    shutil.copytree(whole, folder)
    (folder / "evaluations/00002.json").unlink()  # as if it had not been the last epoch
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plain = {k: v for k, v in lines[2].items() if not k.startswith(("eval/", "picture/", "kl/"))}
    text = "".join(json.dumps(m) + "\n" for m in (*lines[:2], plain))
    (folder / "checkpoints/2/metrics.jsonl").write_text(text)
    seal(folder / "checkpoints/2")
    again = diffrl.resume(folder, epochs=2, live=False)
    assert untimed(again.metrics) == untimed(diffrl.Run(whole).metrics)
    for name in ("evaluations/00002.json", "images/00002.png", "images/before-after.png"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_that_ends_at_an_evaluated_epoch_shows_that_epoch(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    before = (folder / "images/before-after.png").read_bytes()
    watch = checkpoint.read(folder / "checkpoints/2")["watch"]
    again = diffrl.resume(f"{folder}@2", epochs=2, live=False)
    assert untimed(again.metrics) == untimed(tiny_run.metrics[:3])
    later = checkpoint.read(folder / "checkpoints/2")["watch"]
    assert {k: v for k, v in later.items() if k.startswith("norm:")} == {
        k: v for k, v in watch.items() if k.startswith("norm:")
    }  # the epoch's gradient is not watched twice
    assert (folder / "images/before-after.png").read_bytes() != before


def test_what_was_noticed_after_a_checkpoint_is_noticed_again_once(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    said = {"source": "check", "rule": "x", "message": "m", "action": "-"}
    for epoch in (1, 3):
        append_line(folder / "notices.jsonl", {**said, "epoch": epoch})
        for later in range(epoch + 1, 5):
            place = folder / "checkpoints" / str(later)
            append_line(place / "notices.jsonl", {**said, "epoch": epoch})
    for path in (folder / "checkpoints").iterdir():
        seal(path)
    resumed = diffrl.resume(f"{folder}@2", live=False)
    noticed = [n["epoch"] for n in read_lines(resumed.folder / "notices.jsonl")]
    assert noticed.count(1) == 1 and 3 not in noticed
    saved = read_lines(folder / "checkpoints/4/notices.jsonl")
    assert [n["epoch"] for n in saved] == noticed


def test_a_half_written_checkpoint_is_not_taken(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    (folder / "checkpoints" / "4").rename(folder / "checkpoints" / ".4.partial")
    assert newest(folder).name == "3"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: (p / STATE).write_bytes((p / STATE).read_bytes()[:1000]), "is not what was"),
        (lambda p: (p / STATE).unlink(), "trainer_state.safetensors is missing"),
        (lambda p: (p / "settings.toml").write_text("algo = 1"), "settings.toml is not what was"),
        (lambda p: (p / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
        (lambda p: (p / "SHA256SUMS").write_text("f00"), "SHA256SUMS is torn"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_a_whole_one_offered(copied, harm, said):
    harm(copied / "checkpoints" / "4")
    with pytest.raises(ResumeError) as refused:
        diffrl.resume(copied)
    message = str(refused.value)
    assert f"checkpoint {copied / 'checkpoints' / '4'} is damaged: " in message and said in message
    assert f"diffrl train --resume {copied}@3" in message


def test_the_whole_checkpoint_that_is_offered_leads_to_the_same_end(tiny_run, copied):
    (copied / "checkpoints" / "4" / STATE).unlink()
    again = diffrl.resume(f"{copied}@3", live=False)
    assert untimed(again.metrics) == untimed(tiny_run.metrics)
    assert (copied / "checkpoints" / "4.set-aside").is_dir()


def test_a_run_without_a_whole_checkpoint_can_begin_anew(tiny_run, copied):
    for path in (copied / "checkpoints").iterdir():
        (path / "SHA256SUMS").unlink()
    with pytest.raises(ResumeError, match=f"begin anew with: diffrl train --resume {copied}@0"):
        diffrl.resume(copied)
    again = diffrl.resume(f"{copied}@0", live=False)
    assert untimed(again.metrics) == untimed(tiny_run.metrics)


def test_a_checkpoint_that_is_not_there_is_named(copied):
    with pytest.raises(ResumeError, match=r"no checkpoint of epoch 9 in .*; there are: 1, 2, 3, 4"):
        diffrl.resume(f"{copied}@9")


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="there is no sha256sum")
def test_sums_are_those_of_the_usual_tool(copied):
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"],
        cwd=copied / "checkpoints" / "4",
        check=False,
    )
    assert done.returncode == 0


def test_torn_metrics_come_back_from_the_checkpoint(tiny_run, copied):
    path = copied / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:100])
    again = diffrl.resume(copied, live=False)
    assert untimed(again.metrics) == untimed(tiny_run.metrics)


def test_what_a_kill_left_between_two_names_is_put_right(copied):
    checkpoints = copied / "checkpoints"
    (checkpoints / "4").rename(checkpoints / ".4.old")
    (checkpoints / ".3.partial").mkdir()
    tidy(copied)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["1", "2", "3", "4"]


def test_a_run_goes_on_from_what_was_put_right(copied):
    """A kill between two names costs not even the epochs since the checkpoint before."""
    checkpoints = copied / "checkpoints"
    (checkpoints / "4").rename(checkpoints / ".4.old")
    made = (checkpoints / ".4.old" / "SHA256SUMS").stat().st_mtime_ns
    diffrl.resume(copied, live=False)
    assert sorted(p.name for p in checkpoints.iterdir()) == ["1", "2", "3", "4"]
    assert (checkpoints / "4" / "SHA256SUMS").stat().st_mtime_ns == made  # not written again


@pytest.fixture
def copied(tiny_run, tmp_path):
    return shutil.copytree(tiny_run.folder, tmp_path / "run")


def test_a_run_without_checkpoints_begins_anew(tiny_run, copied):
    shutil.rmtree(copied / "checkpoints")
    (copied / "checkpoints").mkdir()
    assert newest(copied) is None
    again = diffrl.resume(copied, epochs=1, live=False)
    assert untimed(again.metrics) == untimed(tiny_run.metrics[:1]) + untimed(again.metrics[1:])
    assert again.metrics[1]["loss/value"] == tiny_run.metrics[1]["loss/value"]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ResumeError, match=f"cannot resume {tmp_path}: no settings.toml"):
        diffrl.resume(tmp_path)


@pytest.mark.parametrize("change", ["adapter.rank=4", "adapter.alpha=4", "model.size=32"])
def test_what_the_weights_depend_on_cannot_be_changed(copied, change):
    before = (copied / "settings.toml").read_text()
    with pytest.raises(SettingsError, match=rf"{change.split('=')[0]} = .* was made with"):
        diffrl.resume(copied, sets=[change], epochs=5)
    assert (copied / "settings.toml").read_text() == before


def test_weights_of_another_shape_are_refused(copied):
    path = copied / "checkpoints" / "4"
    state = checkpoint.read(path)
    state["trained"] = {n: w[:1] for n, w in state["trained"].items()}
    write_packed(state, path / "trainer_state")
    seal(path)
    with pytest.raises(ResumeError, match="written for another model or adapter"):
        diffrl.resume(copied, epochs=5)


def test_the_last_comparison_has_the_numbers_of_steps_of_both(copied):
    more = diffrl.resume(copied, sets=["eval.steps=[2, 3]"], epochs=5, live=False)
    with Image.open(more.folder / "images" / "before-after.png") as picture:
        with Image.open(copied / "images" / "00005.png") as alone:
            assert picture.size == alone.size  # two rows: 2 steps before and after; 2 and 3 alone


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for n in (1, 2, 10, 9):
        (tmp_path / "checkpoints" / str(n)).mkdir(parents=True)
    prune(tmp_path, 0)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
    prune(tmp_path, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "9"]


def test_the_best_checkpoint_by_a_metric_stays(tmp_path):
    for n in (1, 2, 3, 4):
        (tmp_path / "checkpoints" / str(n)).mkdir(parents=True)
    lines = [{"epoch": n, "eval/x/1-step": v} for n, v in ((1, 5.0), (2, 7.0), (3, 6.0))]
    lines.append({"epoch": 4})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in lines))
    prune(tmp_path, 1, "eval/x/1-step", also=[3])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3", "4"]
    prune(tmp_path, 1, "-eval/x/1-step")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.parametrize("size", [0, 200, -30])
def test_settings_that_are_cut_off_are_refused_and_a_copy_is_named(copied, size):
    path = copied / "settings.toml"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ResumeError, match=r"settings.toml is cut off; a copy of it is .*/4/setti"):
        diffrl.resume(copied)
    with pytest.raises(SettingsError, match=r"cut off|not TOML"):
        _ = diffrl.Run(copied).settings

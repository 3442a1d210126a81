"""Folders of runs: each its own, and none left behind."""

from pathlib import Path

import pytest

from diffrl import folder
from diffrl.errors import RunExists
from diffrl.folder import check_free, claimed, environment, given_back
from diffrl.paths import at_home
from diffrl.settings.resolve import resolve
from diffrl.shelf import finished, split


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path):
    settings = resolve("sdpo", ["pickscore"])
    folders = [claimed(settings, tmp_path / "runs") for _ in range(3)]
    assert len(set(folders)) == 3
    assert sorted((tmp_path / "runs").iterdir()) == sorted(folders)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunExists, match="cannot write"):
        claimed(resolve("sdpo", ["pickscore"]), tmp_path / "runs")


def test_what_fails_gives_its_folder_back_unless_something_is_in_it(tmp_path):
    settings = resolve("sdpo", ["pickscore"])
    full, empty = claimed(settings, tmp_path / "runs"), claimed(settings, tmp_path / "runs")
    (full / "settings.toml").write_text("")
    for one in (full, empty):
        with pytest.raises(KeyboardInterrupt), given_back(one):
            raise KeyboardInterrupt
    assert full.exists() and not empty.exists()


def test_a_folder_of_a_run_that_ended_before_it_began_is_free(tmp_path):
    for name in ("images", "checkpoints"):
        (tmp_path / name).mkdir()
    for name in (".lock", "environment.json", ".settings.toml.partial"):
        (tmp_path / name).write_text("")
    check_free(tmp_path)
    for mine in ("images/mine.png", "film.mp4.partial"):
        (tmp_path / mine).write_text("")
        with pytest.raises(RunExists, match="is not empty"):
            check_free(tmp_path)
        (tmp_path / mine).unlink()
    (tmp_path / "images").rmdir()  # a run makes that first
    with pytest.raises(RunExists, match="is not empty"):
        check_free(tmp_path)


def test_a_checkout_without_git_is_no_error(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(folder, "__file__", str(tmp_path / "diffrl" / "folder.py"))
    monkeypatch.setenv("PATH", "")
    assert environment()["commit"] is None


def test_home_is_where_a_shell_would_have_put_it():
    home = str(Path.home())
    assert at_home("~/runs/a") == f"{home}/runs/a"
    assert at_home("--output=~/a") == f"--output={home}/a"
    assert all(at_home(word) == word for word in ("a~", "~a/b", "--set=x=~/a"))
    assert split("~/run@20") == (Path.home() / "run", 20)


def test_a_run_is_finished_once_its_last_epoch_is_saved(tmp_path):
    checkpoint, report = tmp_path / "checkpoints" / "2", tmp_path / "report.html"
    assert not finished(tmp_path, 1)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    assert not finished(tmp_path, 2), "its last save failed"
    checkpoint.mkdir(parents=True)
    assert finished(tmp_path, 2) and not finished(tmp_path, 3)
    checkpoint.rmdir()
    report.write_text("")
    assert finished(tmp_path, 2), "its checkpoints were deleted since"

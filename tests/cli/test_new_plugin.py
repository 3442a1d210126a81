"""`diffrl new-plugin` writes packages whose tests pass, and refuses what it cannot write."""

import os
import shlex
import subprocess
import sys

import pytest

from diffrl.cli import main
from diffrl.cli.new_plugin import USES


@pytest.fixture
def written(tmp_path, capsys):
    """Runs the command; returns its exit code and what it said."""

    def run(*argv):
        with pytest.raises(SystemExit) as stopped:
            main(["new-plugin", *argv, "--output", str(tmp_path)])
        out, err = capsys.readouterr()
        return stopped.value.code, " ".join((out + err).split())

    return run


def test_a_package_of_every_kind_passes_its_own_tests(written, tmp_path):
    for kind in USES:
        assert written(f"my-{kind}", "--kind", kind)[0] == 0
    folders = sorted(tmp_path.iterdir())
    assert [f.name for f in folders] == sorted(f"diffrl-my-{kind}" for kind in USES)
    for folder in folders:
        module = folder.name.replace("-", "_")
        names = {"pyproject.toml", "README.md", f"{module}.py", f"test_{module}.py"}
        assert {p.name for p in folder.iterdir()} == names
    path = os.pathsep.join(map(str, folders))
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--import-mode=importlib", *map(str, folders)],
        env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    late = f"import sys, {', '.join(f.name.replace('-', '_') for f in folders)}"
    checked = [sys.executable, "-c", f"{late}; sys.exit('torch' in sys.modules)"]
    env = {**os.environ, "PYTHONPATH": path}
    assert subprocess.run(checked, env=env, check=False).returncode == 0, "listed without torch"


@pytest.mark.parametrize("kind", sorted(USES))
def test_what_is_written_passes_the_linter(written, tmp_path, kind):
    ruff = pytest.importorskip("ruff")
    written(f"my-{kind}", "--kind", kind)
    options = ["--select", "E,F,I,B,UP,D,ANN,RUF", "--ignore", "D203,D213", "--line-length", "100"]
    command = [ruff.find_ruff_bin(), "check", "--isolated", *options, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("MyLoss",), "'MyLoss' cannot name a plugin: expected kebab-case, such as my-loss"),
        (("diffrl-3d",), "'diffrl-3d' cannot name a plugin: expected kebab-case"),
        (("mine", "--kind", "los"), "--kind los: expected one of loss, reward"),
        (("loss",), "'loss' is diffrl's own word"),
        (("sdpo",), "'sdpo' is taken by sdpo (diffrl"),
        (("sdpo", "--kind", "reward"), "a plugin is called 'sdpo' already (diffrl"),
        (("none", "--kind", "reward"), "'none' is Python's own word; choose a more telling name"),
        (("m" * 260, "--kind", "reward"), "cannot write "),
        (("ddim", "--kind", "sampler"), "'ddim' is taken by diffrl.builtin.samplers (diffrl"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(written, tmp_path, argv, expected):
    code, said = written(*argv)
    assert code == 2 and expected in said and "Traceback" not in said
    assert not any(tmp_path.iterdir())


def test_kinds_are_listed_once(written):
    assert written("mine", "--kind", "xyz")[1].count("update-scheduler") == 1


def test_a_folder_that_exists_is_left_alone(written, tmp_path):
    (tmp_path / "diffrl-mine").mkdir()
    assert "exists already" in written("mine")[1]
    assert not any((tmp_path / "diffrl-mine").iterdir())


def test_what_an_interrupted_call_left_is_written_anew(written, tmp_path):
    (tmp_path / ".diffrl-mine.partial").mkdir()
    assert written("mine")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["diffrl-mine"]


def test_a_place_that_is_no_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        main(["new-plugin", "mine", "--output", str(tmp_path / "file")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "is no folder that can be written to" in said


def test_the_next_command_is_one_that_a_shell_takes(tmp_path, capsys):
    place = tmp_path / "with space"
    with pytest.raises(SystemExit):
        main(["new-plugin", "mine", "--output", str(place)])
    said = capsys.readouterr().out
    assert shlex.split(said.partition(": ")[2])[-1] == str(place / "diffrl-mine")

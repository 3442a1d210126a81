"""A stranger's wheel beside diffrl: built, installed, listed, trained with, uninstalled."""

import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from diffrl.cli.new_plugin import new_plugin

SMALL = (
    "train.trajectories=4", "sampler.steps=2", "eval.images=2", "eval.shown=1", "eval.steps=[1]",
    "eval.watch=[]",
)  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Python of a fresh environment that sees this one's packages, but not the other way round."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = next(folder / p for p in ("bin/python", "Scripts/python.exe") if (folder / p).exists())
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", ask], text=True).strip()
    lines = [f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()]
    (Path(packages) / "outer.pth").write_text("\n".join(lines) + "\n", "utf-8")
    return python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a package that `diffrl new-plugin` wrote."""
    folder = tmp_path_factory.mktemp("stranger")
    source = new_plugin("stranger", "loss", folder)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder / "dist", source)
    (built,) = (folder / "dist").glob("diffrl_stranger-*.whl")
    return built


def pip(*arguments: object, python: Path | None = None) -> None:
    inside = [] if python is None else ["--python", str(python)]
    quiet = ["--quiet", "--disable-pip-version-check"]
    offline = [] if arguments[0] == "uninstall" else ["--no-deps", "--no-index"]
    words = [*inside, str(arguments[0]), *quiet, *offline, *map(str, arguments[1:])]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def diffrl(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {"OMP_NUM_THREADS": "1"} | {
        k: v for k, v in os.environ.items() if k not in ("DIFFRL_PLUGINS", "PYTHONPATH")
    }
    command = [str(python), "-m", "diffrl", *arguments]
    return subprocess.run(command, env=kept, cwd=folder, capture_output=True, text=True)


def listed(python: Path, folder: Path) -> set[str]:
    done = diffrl(python, folder, "list-plugins", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["broken"] == []
    return {row["name"] for row in found["algorithm"]}


def test_a_wheel_comes_is_used_and_goes(python, wheel, tmp_path):
    before = listed(python, tmp_path)
    assert "sdpo" in before and "stranger" not in before
    pip("install", wheel, python=python)
    assert listed(python, tmp_path) == before | {"stranger"}
    command = ["train", "--algo", "stranger", "--reward", "pickscore", "--epochs", "1"]
    sets = [word for one in SMALL for word in ("--set", one)]
    done = diffrl(python, tmp_path, *command, "--output", "run", *sets)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = json.loads((tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    assert trained["epoch"] == 1 and trained["grad_norm"] > 0
    pip("uninstall", "--yes", "diffrl-stranger", python=python)
    assert listed(python, tmp_path) == before
    refused = diffrl(python, tmp_path, *command, "--output", "again", *sets)
    assert refused.returncode == 2 and "no algorithm is called 'stranger'" in refused.stderr
    assert not (tmp_path / "again").exists()
    asked = ["--reward=pickscore", "--prompts=unseen", "--steps=1", "--seeds=1", "-o=judged.json"]
    refused = diffrl(python, tmp_path, "eval", "run", *asked)
    assert refused.returncode == 2 and "stranger (diffrl-stranger 0.1.0)" in refused.stderr
    alone = refused.stderr.rpartition("judged with: diffrl ")[2].split()
    done = diffrl(python, tmp_path, *alone, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    opened = "import diffrl, sys; print(diffrl.Run('run').pipeline().unet.active_adapters())"
    done = subprocess.run([python, "-c", opened], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "default" in done.stdout, done.stderr

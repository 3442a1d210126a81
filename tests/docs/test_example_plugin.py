"""The plugin of docs/write-a-plugin.md installs, is listed, and trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "diffrl_rwr"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """Variables of an environment in which the example is installed, beside this one's packages."""
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "diffrl_rwr"
    source.mkdir()
    for name in ("pyproject.toml", "diffrl_rwr.py"):
        (source / name).write_bytes((EXAMPLE / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", target, source]
    subprocess.run(command, check=True, capture_output=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("DIFFRL_PLUGINS", "PYTHONPATH")}
    return {**kept, "PYTHONPATH": str(target)}


def diffrl(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "diffrl", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_plugin_is_listed(environment, tmp_path):
    listed = json.loads(diffrl(environment, tmp_path, "list-plugins", "--json"))
    (rwr,) = [row for row in listed["algorithm"] if row["name"] == "rwr"]
    assert (rwr["package"], rwr["loss"]) == ("diffrl-rwr", "weighted-denoising")
    assert listed["broken"] == []


def test_the_example_plugin_passes_its_own_tests(environment, tmp_path):
    (tmp_path / "test_diffrl_rwr.py").write_bytes((EXAMPLE / "test_diffrl_rwr.py").read_bytes())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_the_example_plugin_trains(environment, tmp_path):
    diffrl(
        environment,
        tmp_path,
        *"train --algo rwr --reward pickscore --epochs 1 --output run".split(),
        *"--set train.trajectories=8 --set sampler.steps=2 --set eval.steps=[1]".split(),
        *"--set eval.images=2".split(),
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    trained = json.loads(lines[-1])
    assert trained["epoch"] == 1
    assert trained["grad_norm"] > 0
    assert trained["loss/weight_max"] > 1

"""The packages image-reward and hpsv2 themselves, from environments of their own.

Slow: pip installs gigabytes, once for each. `DIFFRL_ENVIRONMENTS` names a folder that keeps them.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

import open_clip
import pytest
import torch
from servers import HERE, ROOT, Server
from small import CLIP

import diffrl
from diffrl.builtin.references import find
from diffrl.builtin.rewards.heads import fill, read_weights
from diffrl.builtin.rewards.imagereward import ImageReward
from diffrl.builtin.rewards.open_clip import OpenClipScorer, empty
from diffrl.checksums import MARK, sha256
from diffrl.serve.client import Client

pytestmark = pytest.mark.slow
PROMPTS = ["a red fox", "two cats", "a red fox", "a very small whale under a tree"]
FILES = {
    "image-reward": {"IMAGE_REWARD_CONFIG": "med_config.json"},
    "hpsv2": {},
}


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    """Return a function that gives a requirement set's own Python."""
    kept = os.environ.get("DIFFRL_ENVIRONMENTS")
    home = Path(kept) if kept else tmp_path_factory.mktemp("environments")

    def python(name):
        found = home / name / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        if not found.exists():
            venv.create(home / name, with_pip=True)
            requirements = ROOT / "environments" / f"{name}.txt"
            subprocess.run([found, "-m", "pip", "install", "-q", "-r", requirements], check=True)
        install = [found, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", ROOT]
        subprocess.run(install, check=True)
        return found

    return python


@pytest.fixture
def serve(environments, tmp_path, free_port):
    """Return a function that serves a package's small network from its own environment."""
    running = []

    def start(name):
        function = f"small:{name.replace('-', '_')}"
        python = environments(name)
        options = {"python": python, "paths": [str(HERE)], **FILES[name]}
        running.append(Server(function, tmp_path, free_port, **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def pinned(path):
    with path.open("rb") as file:
        return f"{path}{MARK}{sha256(file)}"


def images(height, width):
    return torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(3))


def test_image_reward_scores_as_ours_does(serve, tmp_path):
    served = Client(serve("image-reward").url).score(images(80, 64), PROMPTS)
    ours = ImageReward(
        checkpoint=pinned(tmp_path / "ImageReward.pt"),
        tokenizer=str(tmp_path / "bert-base-uncased"),
        output="standardized",
    ).load("cpu")(images(80, 64), PROMPTS)
    assert served.std() > 1e-3
    torch.testing.assert_close(served, ours, rtol=1e-4, atol=1e-5)


def test_hpsv2_scores_as_ours_does(serve, tmp_path):
    # At the network's size: others the package resizes in floats and pads, unlike SDPO.
    served = Client(serve("hpsv2").url).score(images(32, 32), PROMPTS)
    model = empty(CLIP)
    source = find(pinned(tmp_path / "HPS.pt"), "HPS.pt", "HPSv2", "")
    fill(model, read_weights(source), source.file)
    ours = OpenClipScorer(model, open_clip.get_tokenizer("ViT-H-14"), "cpu", "fp32")
    expected = ours.cosine(images(32, 32), PROMPTS)
    assert served.std() > 1e-3
    torch.testing.assert_close(served, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(FILES))
def test_a_served_package_trains_the_bundled_model(serve, name, tmp_path):
    run = diffrl.train(
        "sdpo", f"theirs={serve(name).url}", epochs=2, output=tmp_path / "run", live=False,
        sets=["train.trajectories=16", "eval.images=2", "eval.watch=[]"],
    )  # fmt: skip
    assert [row["epoch"] for row in run.metrics][-1] == 2
    assert run.metrics[-1]["reward/theirs/std"] > 0

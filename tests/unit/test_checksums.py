"""Published `.pt` files: read only where their very bytes are known, and never run."""

import hashlib
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffrl.builtin.references import find, missing
from diffrl.builtin.rewards.aesthetic import Aesthetic
from diffrl.builtin.rewards.heads import read_weights
from diffrl.checksums import PUBLISHED
from diffrl.errors import CheckpointMissing, CheckpointRefused

COMMIT = "1" * 40
WEIGHTS = {"layers.0.weight": torch.ones(1, 16), "layers.0.bias": torch.zeros(1)}


class Opens:
    """What runs code where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def head(tmp_path):
    torch.save(WEIGHTS, tmp_path / "head.pth")
    return tmp_path / "head.pth"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(ref, file="head.pth"):
    return read_weights(find(str(ref), file, "head", "--reward-checkpoint aesthetic="))


def test_the_right_checksum_loads(head):
    for said in (digest(head), digest(head).upper()):
        assert read(f"{head}#sha256={said}")["layers.0.weight"].equal(WEIGHTS["layers.0.weight"])


def test_a_pickle_without_a_checksum_is_refused_with_the_option_that_accepts_it(head):
    with pytest.raises(CheckpointRefused) as stopped:
        read(head)
    accepted = f"--reward-checkpoint aesthetic={head}#sha256={digest(head)}"
    assert str(stopped.value).endswith(f"accept it with {accepted}")
    assert "\n" not in str(stopped.value)
    assert read(accepted.partition("=")[2])


def test_a_wrong_checksum_is_refused_before_anything_is_unpickled(head, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(CheckpointRefused, match=rf"SHA-256 is {digest(head)}, expected {'0' * 64}"):
        read(f"{head}#sha256={'0' * 64}")


def test_a_published_file_needs_no_word(head, monkeypatch):
    monkeypatch.setitem(PUBLISHED, digest(head), "head.pth")
    assert read(head) and missing("rewards.aesthetic.checkpoint", str(head)) == []


def test_safetensors_need_no_checksum_but_keep_to_one(tmp_path):
    path = tmp_path / "head.safetensors"
    save_file(WEIGHTS, path)
    assert read(path) and read(f"{path}#sha256={digest(path)}")
    with pytest.raises(CheckpointRefused, match="is not the file that was pinned"):
        read(f"{path}#sha256={'0' * 64}")


@pytest.mark.parametrize("form", ["zip", "bare", "named safetensors"])
def test_code_in_a_pickle_never_runs_even_with_its_checksum(tmp_path, form):
    mark = tmp_path / "it-ran"
    path = tmp_path / ("bad.safetensors" if form == "named safetensors" else "bad.pt")
    if form == "zip":
        torch.save({"layers.0.weight": Opens(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"layers.0.weight": Opens(mark)}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says what it thinks of the old form
        with pytest.raises(CheckpointMissing, match=r"cannot read the weights"):
            read(f"{path}#sha256={digest(path)}")
    assert not mark.exists()
    assert zipfile.is_zipfile(path) == (form == "zip")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "cache" / "models--org--head"
    place = home / "snapshots" / COMMIT / "head.pth"
    place.parent.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    torch.save(WEIGHTS, place)
    return place


def test_a_pickle_of_the_hub_needs_a_commit_or_a_checksum(hub):
    for ref in ("org/head", "org/head@main"):
        with pytest.raises(CheckpointRefused, match=rf"aesthetic={ref}#sha256={digest(hub)}"):
            read(ref)
    assert read(f"org/head@{COMMIT}") and read(f"org/head#sha256={digest(hub)}")
    with pytest.raises(CheckpointRefused, match="is not the file that was pinned"):
        read(f"org/head@{COMMIT}#sha256={'0' * 64}")


def test_a_reward_says_so_before_anything_loads(head):
    (line,) = Aesthetic(checkpoint=str(head), clip="bundled:pickscore").problems()
    wanted = f"--set rewards.aesthetic.checkpoint={head}#sha256={digest(head)}"
    assert line.startswith("rewards.aesthetic.checkpoint = ") and line.endswith(wanted)
    pinned = f"{head}#sha256={digest(head)}"
    assert Aesthetic(checkpoint=pinned, clip="bundled:pickscore").problems() == []


def test_a_reward_of_a_pinned_file_scores(head, tmp_path):
    from diffrl.testing.tiny import save_tiny_clip

    reward = Aesthetic(
        checkpoint=f"{head}#sha256={digest(head)}", clip=str(save_tiny_clip(tmp_path / "clip"))
    )
    assert reward.load("cpu")(torch.rand(2, 3, 16, 16), ["a", "b"]).shape == (2,)

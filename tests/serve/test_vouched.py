"""Checkpoints of the packages image-reward and hpsv2: only files that somebody vouched for."""

import hashlib
import pickle
from pathlib import Path

import pytest
import torch

from diffrl.errors import RewardError
from diffrl.serve import packages


class Opens:
    """What runs code where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_named_checkpoint_needs_its_checksum(tmp_path, monkeypatch):
    path = tmp_path / "HPS.pt"
    torch.save({"state_dict": {}}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("HPS_CHECKPOINT", str(path))
    accepted = f"HPS_CHECKPOINT={path}#sha256={digest}"
    with pytest.raises(RewardError, match=f"accept it with {accepted}$"):
        packages._hpsv2_checkpoint()
    monkeypatch.setenv(*accepted.split("=", 1))
    assert packages._hpsv2_checkpoint() == str(path)
    monkeypatch.setenv("HPS_CHECKPOINT", f"{path}#sha256={'0' * 64}")
    with pytest.raises(RewardError, match="is not the file that was pinned"):
        packages._hpsv2_checkpoint()
    monkeypatch.setenv("HPS_CHECKPOINT", str(tmp_path / "gone.pt"))
    with pytest.raises(RewardError, match=r"HPS_CHECKPOINT: .*No such file"):
        packages._hpsv2_checkpoint()


def test_a_package_that_unpickles_anything_gets_tensors_only(tmp_path):
    torch.save({"w": Opens(tmp_path / "it-ran")}, tmp_path / "bad.pt")
    usual = torch.load
    with pytest.raises(pickle.UnpicklingError), packages._weights_only():
        torch.load(tmp_path / "bad.pt", map_location="cpu")
    assert not (tmp_path / "it-ran").exists() and torch.load is usual

"""Files of tensors that a GPU gives many at once."""

import json

import pytest
import torch

from diffrl.adapters import attach_lora, save_weights
from diffrl.speed import copying
from diffrl.trainer.packing import read_packed, write_packed
from diffrl.trainer.session import open_pipeline


def content(file):
    """Return a file's bytes; metadata of safetensors, whose order changes, as it is read."""
    found = file.read_bytes()
    if file.suffix != ".safetensors":
        return found
    end = 8 + int.from_bytes(found[:8], "little")
    return json.loads(found[8:end]), found[end:]


@pytest.mark.parametrize("bucket", [2**24, 200])
def test_files_of_tensors_copied_at_once_are_the_same(bucket, tiny_model, tmp_path, monkeypatch):
    unet = open_pipeline(str(tiny_model), torch.device("cpu"), torch.float32).unet
    attach_lora(unet, 2, 2.0, 0)
    trained = [p for p in unet.parameters() if p.requires_grad]
    state = {
        "weights": trained,
        "steps": [torch.tensor(3.0), torch.tensor(4), torch.zeros(0)],
        "odd": [torch.randn(3, 4, 2, 2).to(memory_format=torch.channels_last), trained[0].T],
        "half": {"one": torch.randn(5).bfloat16(), "two": torch.randn(5, 3).half()},
    }

    def written(name):
        folder = tmp_path / name
        folder.mkdir()
        save_weights(unet, folder)
        write_packed(state, folder / "state")
        return {file.name: content(file) for file in folder.iterdir()}

    usual, copied, plain = written("usual"), [], torch.cat
    monkeypatch.setattr(copying, "TOGETHER", "cpu")
    monkeypatch.setattr(copying, "BUCKET", bucket)
    monkeypatch.setattr(torch, "cat", lambda parts: copied.append(len(parts)) or plain(parts))
    assert written("at once") == usual and len(usual) == 3
    assert (max(copied) > len(trained)) == (bucket > 200) and sum(copied) > 0
    again = read_packed(tmp_path / "at once" / "state")
    assert torch.equal(again["odd"][1], trained[0].T) and again["steps"][0].shape == ()

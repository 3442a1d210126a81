"""What every run notices of its weights after the first epoch that it trains."""

import json

import pytest
import torch

import diffrl.trainer as trainer
from diffrl.trainer import checks, train

ONE_UPDATE = ["sampler.steps=2", "update_scheduler.skip_last=1"]


@pytest.fixture
def noticed(tiny_sets, tmp_path, monkeypatch):
    """Trains with a session that was broken; returns the notices, by rule."""

    def run(broken=lambda session: None, epochs=1, sets=()):
        original = trainer.build

        def build(*given):
            session = original(*given)
            broken(session)
            return session

        monkeypatch.setattr(trainer, "build", build)
        sets = [*tiny_sets, *sets]
        folder = tmp_path / "run"
        train("sdpo", "jpeg-compressibility", sets=sets, epochs=epochs, output=folder, live=False)
        file = folder / "notices.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return {one["rule"]: one for one in map(json.loads, lines)}

    return run


def detach(session):
    name = next(n for n in session.policy.trained if "lora_B" in n).removesuffix(".weight")
    module = session.pipeline.unet.get_submodule(name)
    module.register_forward_hook(lambda module, given, out: out.detach())


@pytest.mark.parametrize("sets", [(), ONE_UPDATE], ids=["many", "one"])
def test_nothing_is_noticed_of_a_sound_run(sets, noticed):
    assert noticed(epochs=2, sets=sets) == {}


def test_weights_without_gradient_are_noticed(noticed):
    notice = noticed(detach)["gradient_missing"]
    assert (notice["epoch"], notice["source"], notice["measured"]) == (1, "check", 2.0)
    assert "lora_A" in notice["message"]


def test_with_one_update_an_epoch_the_second_is_waited_for(noticed):
    notice = noticed(detach, epochs=3, sets=ONE_UPDATE)["gradient_missing"]
    assert (notice["epoch"], notice["measured"]) == (2, 2.0)


def test_frozen_weights_with_gradient_are_noticed(noticed):
    found = noticed(lambda session: session.pipeline.unet.conv_in.weight.requires_grad_(True))
    assert set(found) == {"gradient_elsewhere"}
    assert "unet.conv_in.weight" in found["gradient_elsewhere"]["message"]


def test_a_digest_tells_weights_apart():
    one = {"a": torch.zeros(2), "b": torch.ones(3, dtype=torch.bfloat16)}
    same = {n: p.clone() for n, p in one.items()}
    assert checks.digest(one) == checks.digest(same)
    same["b"][1] += 0.01
    assert checks.digest(one) != checks.digest(same)
    assert checks.digest(one) != checks.digest({"a": one["a"], "c": one["b"]})

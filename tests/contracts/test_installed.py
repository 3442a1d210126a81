"""Every installed component passes the suite of its kind."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffrl.registry import registry
from diffrl.testing.contracts import (
    AdvantageEstimatorContract,
    LossContract,
    RewardContract,
    RewardPredictorContract,
    SamplerContract,
    UpdateSchedulerContract,
)
from diffrl.testing.tiny import save_tiny_blip, save_tiny_clip, save_tiny_open_clip
from diffrl.testing.toy import LATENT


def installed(kind):
    """Return the classes of a kind, for parametrizing."""
    entries = registry().components(kind)
    return [pytest.param(entry.value, id=name) for name, entry in entries.items()]


@pytest.fixture(scope="session")
def stored_pairs(tmp_path_factory):
    """Return a file of judged pairs of latents, one for each prompt of the contracts."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for name in ("a.npy", "b.npy"):
        np.save(folder / name, rng.normal(size=LATENT).astype(np.float32))
    lines = [
        json.dumps({"prompt": text, "latents": ["a.npy", "b.npy"], "choice": 0})
        for text in SamplerContract.text
    ]
    (folder / "pairs.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "pairs.jsonl"


class TestSamplers(SamplerContract):
    @pytest.fixture(params=installed("sampler"))
    def component(self, request, stored_pairs):
        given = {"file": str(stored_pairs)} if "file" in request.param.model_fields else {}
        return request.param(**given)


class TestRewardPredictors(RewardPredictorContract):
    @pytest.fixture(params=installed("reward_predictor"))
    def component(self, request):
        return request.param()


class TestAdvantageEstimators(AdvantageEstimatorContract):
    @pytest.fixture(params=installed("advantage_estimator"))
    def component(self, request):
        return request.param()


class TestUpdateSchedulers(UpdateSchedulerContract):
    @pytest.fixture(params=installed("update_scheduler"))
    def component(self, request):
        return request.param()


class TestLosses(LossContract):
    @pytest.fixture(params=installed("loss"))
    def component(self, request):
        return request.param()


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    clip, head = str(save_tiny_clip(folder / "clip")), folder / "head.safetensors"
    save_file({"layers.0.weight": torch.ones(1, 16), "layers.0.bias": torch.ones(1)}, head)
    blip, preferences = save_tiny_blip(folder / "blip"), save_tiny_open_clip(folder / "open_clip")
    return {
        "pickscore": {"checkpoint": clip},
        "clipscore": {"checkpoint": clip},
        "aesthetic": {"checkpoint": str(head), "clip": clip},
        "hpsv2": {"checkpoint": str(preferences)},
        "imagereward": {"checkpoint": str(blip), "tokenizer": clip},
    }


class TestRewards(RewardContract):
    """Where weights are not bundled, the real classes load random ones of toy size."""

    @pytest.fixture(params=installed("reward"))
    def component(self, request, tiny_weights):
        return request.param(**tiny_weights.get(request.param.name, {}))

    @pytest.fixture
    def scorer(self, component):
        """Which must load: there are weights of every reward here."""
        return component.load("cpu")


@pytest.mark.parametrize("recipe", installed("algorithm"))
def test_stages_of_recipes_are_registered(recipe):
    for slot, stage in recipe.stages.items():
        assert registry().get(slot, stage.name).value is type(stage)


@pytest.mark.parametrize("kind", registry().kinds)
def test_every_kind_has_members(kind):
    """Otherwise its suite above would pass by running nothing."""
    assert installed(kind)


def test_nothing_is_broken_or_claimed_twice():
    assert not registry().broken
    assert not registry().duplicates()


@pytest.mark.parametrize("recipe", installed("algorithm"))
def test_installed_recipes_fit_together(recipe):
    assert recipe.problems() == []

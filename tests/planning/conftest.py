from pathlib import Path

import pytest

from diffrl.planning.costs import Costs
from diffrl.planning.devices import Device, device_of
from diffrl.planning.estimate import Estimate
from diffrl.settings.resolve import resolve
from diffrl.trainer.opening import open_prompts

KNOWN: dict[str, Costs] = {}
"""Costs of the networks that tests of this process have planned with."""


@pytest.fixture
def counted_once(monkeypatch):
    """Networks that are built of the same settings are counted once for all tests."""
    fresh = Costs.of

    def known(settings, config, place):
        own = (settings.model, settings.adapter, settings.speed, settings.train.seed, place)
        key = repr((*own, settings.rewards, settings.watched))
        if key not in KNOWN:
            KNOWN[key] = fresh(settings, config, place)
        return KNOWN[key]

    monkeypatch.setattr(Costs, "of", known)


@pytest.fixture
def estimated(counted_once):
    """Estimates without a probe: of settings, for a GPU of the table or a device."""

    def make(algo, preset, place="H200", processes=1, sets=(), reward=("pickscore",), **given):
        settings = resolve(algo, list(reward), preset, sets=sets, **given)
        device = place
        if not isinstance(place, Device):
            device = device_of(place, None, None, "auto", settings.model.precision)
        return Estimate(settings, open_prompts(settings.train.prompts), device, processes)

    return make


@pytest.fixture
def cpu():
    """A CPU with a number of bytes, as if it was this machine's."""
    return lambda size: Device("a CPU", "cpu", size, None, here=True)


@pytest.fixture
def examples():
    return Path(__file__).parents[2] / "docs" / "examples"

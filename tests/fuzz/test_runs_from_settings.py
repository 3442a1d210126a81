"""Real runs of a tiny pipeline from random settings, and from the file that they left.

The default tier makes 2 pairs of runs, the slow one 12.
"""

import itertools
from collections import Counter

import pytest
from fuzz_draws import drawn_settings
from fuzzing import fuzz
from hypothesis import assume
from safetensors.torch import load_file

from diffrl.errors import RewardError, SettingsError
from diffrl.settings.resolve import load
from diffrl.testing.tiny import save_tiny_pipeline
from diffrl.trainer import Run, run

TIERS = [pytest.param(2, id="some"), pytest.param(12, id="many", marks=pytest.mark.slow)]
CLOCK = ("seconds", "per_second", "time/")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What keeps a run to seconds, and its numbers finite."""
    return [
        f"model.ref={save_tiny_pipeline(tmp_path_factory.mktemp('pipeline'))}",
        "model.size=none", "model.device=cpu", "model.precision=fp32", "model.guidance=1",
        "adapter.rank=2", "adapter.alpha=2", "optimizer.lr=1e-3", "optimizer.eps=1e-8",
        "train.epochs=1", "train.trajectories=12", "train.prompts=animals",
        "train.track=[\"tensorboard\"]", "train.sample_batch=5", "eval.prompts=none",
        "eval.steps=[1]", "eval.images=3", "eval.shown=1", "eval.watch=[]", "sampler.steps=2",
        "speed.compile=off",
    ]  # fmt: skip


@pytest.mark.parametrize("examples", TIERS)
def test_a_run_and_a_run_of_its_file_are_equal(examples, small, tmp_path):
    seen, number = Counter(), itertools.count()

    def check(drawn):
        drawn.rewards, drawn.watch, drawn.preset = ["jpeg-compressibility:0.5"], [], "emoji"
        drawn.config.pop("rewards", None)
        drawn.sets = [text for text in drawn.sets if not text.startswith("rewards.")] + small
        try:
            settings = drawn.resolve(tmp_path)
        except SettingsError:
            assume(False)
            raise
        sampler = settings.recipe.sampler
        assume(sampler.name != "stored" and sampler.group <= 6)
        folder = tmp_path / str(next(number))
        one, stopped = ended(settings, folder / "one")
        other, stopped_too = ended(load(folder / "one/settings.toml"), folder / "other")
        assert stopped == stopped_too
        assert timeless(one) == timeless(other)
        assert weights(one) == weights(other)
        assert (one.folder / "settings.toml").read_bytes() == (
            other.folder / "settings.toml"
        ).read_bytes()
        seen["pairs of runs"] += 1
        seen["of them stopped, diverged"] += stopped

    fuzz(examples, drawn_settings(), check)
    print(dict(seen))
    assert seen["pairs of runs"] >= examples


def ended(settings, folder):
    """Return a run and whether it stopped on the way, as one does that diverges; it is saved."""
    try:
        return run(settings, output=folder), False
    except RewardError as error:
        assert "is saved; continue with" in str(error)
        return Run(folder), True


def timeless(one):
    """Return metrics as text, since nan is not equal to itself, without what the clock says."""
    return [
        {k: repr(v) for k, v in line.items() if not any(word in k for word in CLOCK)}
        for line in one.metrics
    ]


def weights(one):
    """Return the bytes of every tensor of the last checkpoint's weights."""
    found = sorted(one.checkpoints[-1].rglob("*.safetensors"))
    assert found
    return {
        (path.name, name): tensor.numpy().tobytes()
        for path in found
        if path.name != "trainer_state.safetensors"
        for name, tensor in load_file(path).items()
    }

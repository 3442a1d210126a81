"""Any valid settings resolve, come back from their file, and give the same run.

The default tier draws 150, the slow one 2,000 (`pytest tests/fuzz -m slow -s` prints the counts).
"""

import re
from collections import Counter

import pytest
import torch
from fuzz_draws import drawn_settings
from fuzzing import fuzz
from hypothesis import assume

from diffrl.errors import SettingsError
from diffrl.settings.resolve import dump, load
from diffrl.settings.sections import SECTIONS
from diffrl.stages import STAGES
from diffrl.testing.loop import train
from diffrl.testing.toy import TEXT, ToyJudge, ToyPolicy

TIERS = [pytest.param(150, id="some"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
JOINT = re.compile(
    "should be a multiple of sampler.group|the length of the noise schedule|needs x0|needs path"
    "|the most steps of the sampler|needs log_prob|needs labels|needs grad|compares tuples of"
    "|rewards the last step alone|are one picture"
    "|adds up all steps of a trajectory"
    "|is right only on-policy|leaves none of the sampler's|leaves one row of every group"
    "|needs groups of at least|half precision does not train on|have no density|never reaches"
    "|sampler.lengths holds|compares rows of a group|has no weight|give no KL"
)
"""What is said of values that are right one by one and wrong together."""


@pytest.mark.parametrize("examples", TIERS)
def test_settings_resolve_come_back_and_give_the_same_run(examples, tmp_path):
    seen = Counter()

    def check(drawn):
        seen["drawn"] += 1
        settings = resolved(drawn, tmp_path)
        seen["valid"] += 1
        file = tmp_path / "settings.toml"
        file.write_text(dump(settings), encoding="utf-8")
        again = load(file)
        assert again == settings
        assert again.origins == settings.origins
        assert dump(again).encode() == file.read_bytes()
        seen[same_toy_run(settings.recipe, again.recipe)] += 1

    fuzz(examples, drawn_settings(), check)
    print(dict(seen))
    assert seen["valid"] >= examples
    assert seen["ran"] > seen["valid"] / 2


def resolved(drawn, folder):
    """Return settings of which every value is what the highest layer says; redraw a misfit."""
    try:
        settings = drawn.resolve(folder)
    except SettingsError as error:
        assert all(JOINT.search(problem) for problem in error.problems), str(error)
        assume(False)
        raise
    for key, value in drawn.expected.items():
        if key not in ("sampler.lengths", "eval.watch"):  # steps clear the one, --watch adds
            assert same(found(settings, key), value), key
    return settings


def found(settings, key):
    """Return the value of a dotted key."""
    if key in STAGES:
        return getattr(settings.recipe, key).name
    path, _, name = key.rpartition(".")
    if path.startswith("rewards."):
        rewards = {w.reward.name: w.reward for w in settings.rewards}
        return getattr(rewards[path.removeprefix("rewards.")], name)
    return getattr(getattr(settings if path in SECTIONS else settings.recipe, path), name)


def same(value, given):
    """Return whether a value is what was given, a list or the word none included."""
    return value == (None if given == "none" and value is None else given) or list(value) == given


def same_toy_run(one, other):
    """Run both in the toy world for an epoch, and compare weights bit by bit."""
    short = shortened(one)
    if short is None:
        return "no toy run"
    assert toy_weights(short) == toy_weights(shortened(other))
    return "ran"


def shortened(recipe):
    """Return a recipe small enough for milliseconds, or None where it fits the toy no longer."""
    few = {"steps": 2, "group": 4, "inner_epochs": 1, "skip_last": 1}
    if recipe.sampler.name == "stored":  # it reads a file
        return None
    for slot, stage in recipe.stages.items():
        less = {k: min(v, few[k]) for k, v in stage if k in few}
        if slot == "sampler":
            less["lengths"] = tuple(min(steps, 2) for steps in stage.lengths)
        recipe = recipe.but(**{slot: stage.model_copy(update=less)})
    return recipe if not recipe.problems() else None


def toy_weights(recipe):
    policy = ToyPolicy(0)
    train(recipe, policy, ToyJudge(), TEXT[:1], epochs=1, learning_rate=1e-2)
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).numpy().tobytes()

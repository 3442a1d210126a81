"""Settings survive being written to a run's folder."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from diffrl import Loss, hookimpl
from diffrl.builtin.reward_predictors import Terminal
from diffrl.errors import PluginError, SettingsError
from diffrl.registry import registry
from diffrl.settings.layers import from_sets
from diffrl.settings.resolve import dump, load, resolve
from diffrl.settings.saved import changed
from diffrl.settings.toml import read, write_value

pytestmark = pytest.mark.usefixtures("toys")


def test_saved_settings_read_back_exactly_with_their_origins(tmp_path):
    file = tmp_path / "settings.toml"
    settings = resolve(
        "try-algo",
        ["try-tally:0.5", "try-taste"],
        sets=[
            "loss=try-tempered",
            "loss.temperature=1e-12",
            "loss.low=-inf",
            "sampler.eta=0.1",
            "eval.steps=[1, 3]",
            'rewards.try-taste.checkpoint="C:\\\\x  # \\"y\\"\\nz"',
        ],
        flags={"model.ref": ("a b  # c", "--model a b  # c")},
    )
    file.write_text(dump(settings))
    again = load(file)
    assert again == settings
    assert again.origins == settings.origins
    assert dump(again) == file.read_text()


def test_saved_settings_of_a_real_algorithm_read_back_exactly(tmp_path):
    file = tmp_path / "settings.toml"
    for preset in ("emoji", "sd-turbo"):
        settings = resolve("sdpo", ["pickscore", "aesthetic:0.1"], preset=preset)
        file.write_text(dump(settings))
        assert load(file) == settings


def test_a_recipe_may_hold_a_stage_that_no_one_else_can_name(tmp_path):
    class Private(Loss):
        name: ClassVar[str] = "try-private"
        scale: float = 1.0

    class Brings:
        @hookimpl
        def diffrl_algorithms(self):
            base = registry().get("algorithm", "try-algo").value
            return [base.but(name="try-other", loss=Private(scale=2.0))]

    plugin, file = Brings(), tmp_path / "settings.toml"
    registry().register(plugin)
    try:
        settings = resolve("try-other", ["try-taste"], sets=["loss.scale=3"])
        file.write_text(dump(settings))
        assert load(file) == settings
    finally:
        registry().unregister(plugin)


def test_a_field_that_no_file_can_hold_is_refused_by_the_name_of_its_component():
    class Opaque(Loss):
        name: ClassVar[str] = "try-opaque"
        function: Any = print

    settings = resolve("try-algo", ["try-taste"])
    settings = replace(settings, recipe=settings.recipe.but(loss=Opaque()))
    with pytest.raises(PluginError, match="Opaque has a field that cannot be written"):
        dump(settings)


def test_a_none_survives_where_the_default_is_not_none(tmp_path):
    file = tmp_path / "settings.toml"
    settings = resolve("try-algo", ["try-taste"], sets=["loss.limit=none"])
    file.write_text(dump(settings))
    assert load(file).recipe.loss.limit is None


def test_tables_within_a_setting_come_back(tmp_path):
    given = {"a.b": 2.0, 'c "d"': [1, 2], "plain": {"x": True}, "": "none"}
    (tmp_path / "one.toml").write_text(f"[rewards.mine]\nwords = {write_value(given)}\n")
    assert read(tmp_path / "one.toml", "one")["rewards"]["mine"]["words"] == given
    (item,), problems = from_sets([f"rewards.mine.words={write_value(given)}"])
    assert item.value == given and not problems


def test_origins_stand_behind_the_values(tmp_path):
    text = dump(resolve("try-algo", ["try-taste"], sets=["clip=3e-4"]))
    assert 'name = "try-clipped"' in text
    assert "[rewards.try-taste]  # --reward try-taste" in text
    (line,) = [line for line in text.splitlines() if line.startswith("clip")]
    assert line.split("  # ") == [line.split("  # ")[0], "--set clip=3e-4"]
    assert line.startswith("clip = 0.0003")


def test_a_resumed_run_takes_overrides_with_their_origin(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(dump(resolve("try-algo", ["try-taste"])))
    again = load(file, ["loss.clip=1"], {"train.epochs": (7, "--epochs 7")})
    assert (again.recipe.loss.clip, again.train.epochs) == (1.0, 7)
    assert again.origins["train.epochs"] == "--epochs 7"
    assert again.origins["sampler.steps"] == "preset emoji"


@pytest.mark.parametrize("before", [(), ("lengths=[3, 2]",), ("steps=6", "lengths=[3, 2]")])
def test_a_resumed_run_takes_a_number_of_steps_in_place_of_its_lengths(before, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(dump(resolve("sdpo", ["pickscore"], sets=before)), "utf-8")
    kept, changed = (load(path, sets).recipe.sampler for sets in ((), ("sampler.steps=5",)))
    assert kept.lengths == ((3, 2) if before else (4, 2))
    assert (changed.steps, changed.lengths) == (5, ())


def test_saved_settings_work_as_a_config_file(tmp_path):
    file = tmp_path / "settings.toml"
    first = resolve("try-algo", ["try-taste:0.5"], sets=["loss.clip=0.5"])
    file.write_text(dump(first))
    second = resolve("try-algo", ["try-taste"], config=file)
    assert second.recipe == first.recipe
    assert second.rewards == first.rewards
    assert second.origins["loss.clip"] == f"--config {file}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"try-algo"', '"try-gone"', "no algorithm is called 'try-gone'. Did you mean try-algo?"),
        ("try-taste", "try-tasty", "no reward is called 'try-tasty'. Did you mean try-taste"),
        ("clip = 0.0002", "clip = 0", "loss.clip = 0: input should be greater than 0"),
        ("[model]", "[model", "not TOML"),
    ],
)
def test_saved_settings_that_no_longer_hold_say_what_is_missing(old, new, message, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text(dump(resolve("try-algo", ["try-taste"])).replace(old, new))
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert message in str(caught.value)


def test_another_stage_takes_no_values_that_the_one_before_brought(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(dump(resolve("sdpo", ["pickscore"], sets=["sampler.steps=6"])), "utf-8")
    sets = ["sampler=lcm", "reward_predictor=terminal"]
    swapped = load(path, sets).recipe
    assert swapped.reward_predictor == Terminal()
    fresh = resolve("sdpo", ["pickscore"], sets=[*sets, "sampler.steps=6"]).recipe.sampler
    assert swapped.sampler == fresh and (fresh.steps, fresh.group) == (6, 2)
    other = load(path, ["loss=clipped-ratio", "update_scheduler=rows-first"]).recipe
    assert (other.loss.clip, load(path).recipe.loss.clip) == (1e-4, 1.6e-3)  # a preset's, for SDPO


def test_a_reward_that_a_run_begins_to_watch_has_the_values_of_its_preset(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(dump(resolve("sdpo", ["pickscore"])), "utf-8")
    found = load(path, ['eval.watch=["imagereward"]'])
    (reward,) = found.watched
    assert reward.checkpoint == "bundled:imagereward"
    assert found.origins["rewards.imagereward.checkpoint"] == "preset emoji"


def test_changed_settings_are_told_one_by_one():
    one = resolve("sdpo", ["pickscore"])
    other = resolve("sdpo", ["pickscore"], sets=["optimizer.lr=1e-5", "train.epochs=7"])
    (line,) = changed(one, other)
    assert line.startswith("optimizer.lr 0.0008 → 1e-05")

"""Which value wins, and what is said about where it came from."""

import pytest

from diffrl import presets
from diffrl.errors import SettingsError
from diffrl.settings.resolve import dump, load, resolve
from diffrl.settings.toml import parse_value, write_value

pytestmark = pytest.mark.usefixtures("toys")


def made(*sets, **given):
    return resolve("try-algo", ["try-taste"], sets=sets, **given)


def test_without_overrides_values_come_from_defaults_recipe_and_preset():
    settings = made()
    assert (settings.recipe.loss.clip, settings.origins["loss.clip"]) == (2e-4, "recipe 'try-algo'")
    assert (settings.recipe.sampler.eta, settings.origins["sampler.eta"]) == (1.0, "default")
    assert settings.origins["sampler.steps"] == "preset emoji"
    assert settings.recipe.sampler.steps == presets.read("emoji")["sampler"]["steps"]
    assert settings.origins["loss"] == "recipe 'try-algo'"
    assert settings.recipe.name == "try-algo"


def test_config_beats_preset_and_set_beats_config_and_flags(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[sampler]\nsteps = 7\neta = 0.5\n[train]\nepochs = 3\nseed = 1\n")
    flags = {"train.epochs": (5, "--epochs 5"), "train.seed": (9, "--seed 9")}
    settings = made("train.seed=8", config=file, flags=flags)
    assert (settings.recipe.sampler.steps, settings.recipe.sampler.eta) == (7, 0.5)
    assert (settings.train.epochs, settings.train.seed) == (5, 8)
    assert settings.origins["sampler.steps"] == f"--config {file}"
    assert settings.origins["train.epochs"] == "--epochs 5"
    assert settings.origins["train.seed"] == "--set train.seed=8"


def test_swapping_a_stage_takes_its_defaults_then_fields_apply_in_any_order():
    settings = made("loss.temperature=2", "loss=try-tempered", "loss.high=3")
    loss = settings.recipe.loss
    assert (loss.name, loss.temperature, loss.low, loss.high) == ("try-tempered", 2.0, 0.0, 3.0)
    assert settings.origins["loss"] == "--set loss=try-tempered"
    assert settings.origins["loss.low"] == "default"


def test_naming_the_stage_that_is_there_keeps_the_recipes_values():
    settings = made("loss=try-clipped")
    assert settings.recipe.loss.clip == 2e-4
    assert settings.origins["loss.clip"] == "recipe 'try-algo'"


def test_a_config_table_swaps_by_name():
    settings = made(config={"loss": {"name": "try-tempered", "temperature": 0.5}})
    assert settings.recipe.loss.temperature == 0.5
    assert settings.origins["loss.temperature"] == "config"


def test_a_bare_field_reaches_its_only_owner():
    settings = made("anchor=random", "rank=3", config={"clip": 1e-3})
    assert settings.recipe.reward_predictor.anchor == "random"
    assert settings.adapter.rank == 3
    assert settings.recipe.loss.clip == 1e-3


def test_dashes_and_underscores_are_the_same_in_keys():
    settings = made("update-scheduler.skip-last=2", "steps=4", "rewards.try-taste.checkpoint=x")
    assert settings.recipe.update_scheduler.skip_last == 2
    assert settings.rewards[0].reward.checkpoint == "x"


def test_none_unsets_a_field_that_may_be_none():
    assert made().recipe.loss.limit == 5.0
    assert made("loss.limit=none").recipe.loss.limit is None


def test_a_reward_weight_comes_from_its_argument_unless_set():
    settings = resolve("try-algo", ["try-taste:0.5", "try-tally"])
    assert [(r.reward.name, r.weight) for r in settings.rewards] == [
        ("try-taste", 0.5),
        ("try-tally", 1.0),
    ]
    assert settings.origins["rewards.try-taste.weight"] == "--reward try-taste:0.5"
    settings = resolve("try-algo", ["try-taste:0.5"], sets=["rewards.try-taste.weight=2"])
    assert settings.rewards[0].weight == 2.0


def test_a_preset_skips_fields_that_a_stage_does_not_have():
    preset = {"model": {"ref": "m"}, "loss": {"no_such_field": 1}, "sampler": {"steps": 9}}
    settings = with_preset(preset)
    assert settings.recipe.sampler.steps == 9
    assert "loss.no_such_field" not in settings.origins


def test_a_preset_that_misspells_a_section_field_is_a_problem():
    with pytest.raises(SettingsError, match=r"preset emoji: model\.reff: section 'model' has no"):
        with_preset({"model": {"ref": "m", "reff": "n"}})


def test_conditions_in_a_preset_hold_only_for_their_algorithm_and_reward():
    preset = {
        "model": {"ref": "m"},
        "when": {
            "reward": {
                "try-taste": {"optimizer": {"lr": 0.25}},
                "try-tally": {"optimizer": {"lr": 0.5}, "train": {"epochs": 7}},
            },
            "algo": {"try-algo": {"loss": {"clip": 0.125}}, "other": {"sampler": {"steps": 2}}},
        },
    }
    settings = with_preset(preset)
    assert (settings.optimizer.lr, settings.recipe.loss.clip) == (0.25, 0.125)
    assert (settings.train.epochs, settings.recipe.sampler.steps) == (100, 4)
    assert settings.origins["optimizer.lr"] == "preset emoji, reward try-taste"
    assert settings.origins["loss.clip"] == "preset emoji, algo try-algo"


def test_a_watched_reward_takes_the_settings_of_its_name():
    preset = {
        "model": {"ref": "m"},
        "rewards": {"try-taste": {"checkpoint": "there"}},
        "eval": {"watch": ["try-taste"]},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffrl.presets.read", lambda name: preset)
        by_preset = resolve("try-algo", ["try-tally"])
        by_set = resolve("try-algo", ["try-tally"], sets=["rewards.try-taste.checkpoint=elsewhere"])
        trained = resolve("try-algo", ["try-taste"])
    assert [r.checkpoint for r in by_preset.watched] == ["there"]
    assert [r.checkpoint for r in by_set.watched] == ["elsewhere"]
    assert [r.reward.name for r in by_set.rewards] == ["try-tally"]
    assert trained.watched == ()


def test_watched_rewards_are_saved_apart_from_those_that_are_trained_on(tmp_path):
    sets = ['eval.watch=["try-taste"]', "rewards.try-taste.checkpoint=elsewhere"]
    settings = resolve("try-algo", ["try-tally:2"], sets=sets)
    (tmp_path / "settings.toml").write_text(dump(settings))
    again = load(tmp_path / "settings.toml")
    assert (again.watched, again.rewards) == (settings.watched, settings.rewards)
    assert again.origins["rewards.try-taste.checkpoint"].startswith("--set rewards.try-taste")


def with_preset(content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffrl.presets.read", lambda name: content)
        return made()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("5", 5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"5"', "5"),
        ("random", "random"),
        ("", ""),
        ("a b # c", "a b # c"),
        ("2024-01-01", "2024-01-01"),
        ("{a = 1}", {"a": 1}),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_command_line_values_are_toml_or_else_text(text, value):
    parsed = parse_value(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize("value", [1e-4, 1e-12, 3, True, "a  # b\n", [1, 2], ["x", 'y"'], [], 0.1])
def test_a_written_value_reads_back_the_same_on_one_line(value):
    text = write_value(value)
    assert "\n" not in text
    assert parse_value(text) == value

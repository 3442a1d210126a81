"""The bundled presets hold for what is installed."""

import pytest
import torch
from diffrl_d3po import D3PO
from diffrl_ddpo import DDPO
from diffrl_rebel import PRDP

from diffrl import hookimpl, presets
from diffrl.registry import registry
from diffrl.settings.resolve import resolve
from diffrl.settings.sections import SECTIONS
from diffrl.stages import STAGES
from diffrl.types import Advantages, Prompts


def test_the_default_preset_comes_first():
    assert presets.names()[0] == "emoji"
    assert "sd-turbo" in presets.names()


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_resolves_with_every_algorithm_and_reward(name):
    for algo in registry().components("algorithm"):
        for reward in registry().components("reward"):
            assert resolve(algo, [reward], preset=name).preset == name


@pytest.mark.parametrize("name", presets.names())
def test_every_stage_field_of_a_preset_belongs_to_an_installed_stage(name):
    content = presets.read(name)
    assert content["description"]
    cases = [c for kind in content.get("when", {}).values() for c in kind.values()]
    for table in [content, *cases]:
        assert set(table) <= {*STAGES, *SECTIONS, "rewards", "description", "when"}
        for slot in STAGES:
            known = {
                field
                for entry in registry().components(slot).values()
                for field in entry.value.model_fields
            }
            assert set(table.get(slot, {})) <= {"name", *known}


def updates_of_an_epoch(settings):
    recipe, rows = settings.recipe, settings.train.trajectories
    group = torch.arange(rows) // recipe.sampler.group
    epoch = recipe.update_scheduler(
        Prompts(("a",) * rows, group, torch.zeros(rows, 1)),
        Advantages(torch.zeros(rows, recipe.sampler.steps)),
        torch.Generator(),
    )
    return sum(m.commit for m in epoch)


@pytest.mark.parametrize("reward", ["pickscore", "aesthetic"])
def test_the_papers_baselines_take_16_pictures_an_update_of_each_of_4_gpus(reward):
    for algo in ("ddpo", "d3po", "rebel", "prdp", "prdp-rebel"):
        settings = resolve(algo, [reward], preset="sd-turbo")
        assert updates_of_an_epoch(settings) == settings.train.trajectories / 64, algo
        assert settings.optimizer.lr == 3e-4


@pytest.mark.parametrize(
    ("reward", "lr", "epochs", "pairs"),
    [("pickscore", 6e-5, 200, 64), ("aesthetic", 1e-4, 100, 64), ("hpsv2", 5e-5, 200, 128)],
)
def test_the_sd_turbo_preset_follows_sdpos_table(reward, lr, epochs, pairs):
    settings = resolve("sdpo", [reward], preset="sd-turbo")
    assert (settings.optimizer.lr, settings.train.epochs) == (lr, epochs)
    assert (settings.recipe.update_scheduler.per_update, settings.recipe.sampler.steps) == (
        pairs,
        50,
    )
    assert settings.train.trajectories == 256
    assert updates_of_an_epoch(settings) == 50 * 128 / pairs
    assert (settings.adapter.rank, settings.adapter.alpha) == (4, 4.0)
    assert (settings.model.precision, settings.model.size) == ("fp16", 512)


@pytest.mark.parametrize(
    ("sets", "steps", "lengths"),
    [
        ((), 4, (4, 2)),
        (("sampler.steps=5",), 5, ()),
        (("steps=5",), 5, ()),
        (("sampler.lengths=[3]",), 4, (3,)),
        (("sampler.steps=5", "lengths=[3, 2]"), 5, (3, 2)),
        (("lengths=[3, 2]", "sampler.steps=5"), 5, (3, 2)),
    ],
)
def test_a_number_of_steps_takes_the_place_of_a_presets_mixed_lengths(sets, steps, lengths):
    sampler = resolve("sdpo", ["pickscore"], sets=sets).recipe.sampler
    assert (sampler.steps, sampler.lengths) == (steps, lengths)


class Variant:
    """A plugin's own algorithm, made from a shipped one."""

    @hookimpl
    def diffrl_algorithms(self):
        return [
            DDPO.but(name="twin"),
            DDPO.but(name="alone", tuned_like=()),
            PRDP.but(name="twin-prdp"),
        ]


@pytest.fixture
def variant():
    plugin = Variant()
    registry().register(plugin, "variants", "variants", "1.0")
    yield
    registry().unregister(plugin)


@pytest.mark.usefixtures("variant")
@pytest.mark.parametrize("preset", presets.names())
@pytest.mark.parametrize(("algo", "like"), [("twin", "ddpo"), ("twin-prdp", "prdp")])
def test_a_variant_is_tuned_like_what_it_was_made_from(preset, algo, like):
    one, other = (resolve(name, ["pickscore"], preset) for name in (algo, like))
    assert one.recipe.stages == other.recipe.stages
    assert one.optimizer == other.optimizer


@pytest.mark.usefixtures("variant")
def test_a_variant_may_be_tuned_like_none():
    alone, ddpo = (resolve(name, ["pickscore"]) for name in ("alone", "ddpo"))
    assert alone.recipe.loss == DDPO.loss != ddpo.recipe.loss
    assert alone.optimizer.lr > ddpo.optimizer.lr


def test_what_a_preset_gives_an_algorithms_stage_does_not_reach_another_in_its_place():
    swapped = resolve("sdpo", ["pickscore"], sets=["loss=step-preference"])
    assert swapped.recipe.loss == D3PO.loss.model_copy(update={"clip": swapped.recipe.loss.clip})
    assert swapped.recipe.loss.clip == type(swapped.recipe.loss)().clip
    assert resolve("sdpo", ["pickscore"]).recipe.loss.clip == 1.6e-3


@pytest.mark.parametrize(
    ("algo", "norm"), [("rebel", 1e9), ("prdp", 5.0), ("prdp-rebel", 5.0), ("sdpo", 5.0)]
)
def test_rlcm_clips_no_gradient_of_rebel_alone(algo, norm):
    settings = resolve(algo, ["aesthetic"], preset="lcm-dreamshaper")
    assert settings.optimizer.max_grad_norm == norm

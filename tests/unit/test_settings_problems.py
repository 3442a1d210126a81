"""What is said about every wrong setting: all at once, with origin and the nearest fix."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import pytest
from pydantic import Field

from diffrl import hookimpl
from diffrl.builtin.samplers import Ddim
from diffrl.errors import FitError, SettingsError
from diffrl.registry import registry
from diffrl.settings.resolve import resolve

pytestmark = pytest.mark.usefixtures("toys")


def problems(*sets, algo="try-algo", rewards=("try-taste",), **given):
    with pytest.raises(SettingsError) as caught:
        resolve(algo, rewards, sets=sets, **given)
    return list(caught.value.problems)


def test_two_problems_read_as_in_the_manual():
    with pytest.raises(SettingsError) as caught:
        resolve("try-algo", ["try-taste"], sets=["anchor=rnd", "ancor=random"])
    assert str(caught.value) == (
        "2 problems in the settings:\n"
        "  --set ancor=random: no stage of 'try-algo' has a field 'ancor'. "
        "Did you mean reward_predictor.anchor?\n"
        "  reward_predictor.anchor = 'rnd': input should be 'adaptive', 'random' or 'fixed'\n"
        "      from --set anchor=rnd; recipe 'try-algo' uses 'adaptive'"
    )


def test_stages_that_do_not_fit_read_as_in_the_manual():
    with pytest.raises(FitError) as caught:
        resolve("try-algo", ["try-taste"], sets=["sampler=try-jump"])
    assert str(caught.value) == (
        "these stages do not fit together:\n"
        "  reward predictor 'try-guess' needs x0_hat, but no earlier stage gives it "
        "(sampler 'try-jump' gives x0)"
    )


def test_misfits_are_told_beside_wrong_values():
    found = problems("sampler=try-jump", "adapter.rank=0")
    assert len(found) == 2
    assert found[0].startswith("adapter.rank = 0: input should be greater than 0\n")
    assert "needs x0_hat" in found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loss.clp=1",
            "--set loss.clp=1: loss 'try-clipped' has no field 'clp'. Did you mean clip?",
        ),
        ("los.clip=1", "--set los.clip=1: no stage or section is called 'los'. Did you mean loss?"),
        ("loss=try-cliped", "no loss is called 'try-cliped'. Did you mean try-clipped"),
        (
            "model.reff=1",
            "--set model.reff=1: section 'model' has no field 'reff'. Did you mean ref?",
        ),
        ("qqqqq=1", "no stage of 'try-algo' has a field 'qqqqq'. `diffrl show try-algo` lists"),
        ("seed=3", "--set seed=3: 'seed' is ambiguous; write train.seed or eval.seed"),
        ("train=3", "--set train=3: train is a section; set one of train.epochs, "),
        ("loss", "--set loss: expected key=value, for example"),
        ("=3", "--set =3: expected key=value"),
        ("rewards.try-tally.weight=1", "reward 'try-tally' is not in use (try-taste"),
        ("rewards.try-taste=1", "name a field, for example rewards.try-taste.weight=0.5"),
        ("rewards.try-taste.chekpoint=1", "has no field 'chekpoint'. Did you mean checkpoint?"),
        (
            "rewards.try-taste.weight=nan",
            "rewards.try-taste.weight = nan: input should be a finite",
        ),
        (
            "clip=0",
            "loss.clip = 0: input should be greater than 0\n      from --set clip=0; recipe",
        ),
        ("clip=big", "loss.clip = 'big': input should be a valid number"),
        ("eval.steps=[1, 0]", "eval.steps = [1, 0]: input should be greater than 0 (item 2)\n"),
        ("seed=x", "'seed' is ambiguous; write train.seed or eval.seed"),
        ("train.seed=-1", "from --set train.seed=-1; preset emoji uses 42"),
        ("sampler.steps=1001", "sampler.steps = 1001: input should be at most 1000, the length"),
        (
            "device=gpu",
            "model.device = 'gpu': input should be auto, cpu, cuda, cuda:<number> or mps",
        ),
        (
            'watch=["try-tast"]',
            "eval.watch = ['try-tast']: no reward is called 'try-tast'. Did you",
        ),
        ("loss=try-tempered", "loss.temperature: has no default, so set it with --set loss.temper"),
    ],
)
def test_each_wrong_set_is_one_problem_with_its_fix(text, message, monkeypatch):
    monkeypatch.setattr("diffrl.presets.read", lambda name: PRESET)
    (found,) = problems(text)
    assert message in found


PRESET = {"model": {"ref": "m"}, "train": {"seed": 42}}


def test_half_precision_on_a_cpu_is_refused_and_bf16_is_not():
    (found,) = problems("precision=fp16", "device=cpu")
    assert found.startswith("model.precision = 'fp16': half precision does not train on")
    assert resolve("try-algo", ["try-taste"], sets=["precision=bf16", "device=cpu"])


def test_trajectories_are_whole_groups():
    (found,) = problems("train.trajectories=33", "sampler.group=2")
    assert (
        "train.trajectories = 33: input should be a multiple of sampler.group, which is 2" in found
    )


def test_a_rule_over_several_fields_names_its_stage():
    (found,) = problems("loss=try-tempered", "loss.temperature=1", "loss.low=2")
    assert found == "loss 'try-tempered': low should not be above high"


def test_unknown_names_are_told_together_with_the_nearest():
    found = problems(
        "adapter.rank=no", algo="try-alg", rewards=["try-tast", "try-taste:x"], preset="emojy"
    )
    assert len(found) == 5
    assert found[0] == "no algorithm is called 'try-alg'. Did you mean try-algo?"
    assert found[1].startswith("--reward try-tast: no reward is called 'try-tast'. Did you mean")
    assert found[2] == "no preset is called 'emojy'. Did you mean emoji?"
    assert found[3].startswith("adapter.rank = 'no': input should be a valid integer")
    assert found[4].startswith("rewards.try-taste.weight = 'x': input should be a valid number")


def test_a_reward_is_needed_and_named_once():
    (found,) = problems(rewards=())
    assert found.startswith("no reward to train on; add --reward NAME. Known: ")
    (found,) = problems(rewards=("try-taste", "try-taste:2"))
    assert (
        found == "--reward try-taste:2: reward 'try-taste' is given twice; weigh it as try-taste:2"
    )
    assert resolve("try-algo", (), need_reward=False).rewards == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[sampler\n", "not TOML: "),
        (b"\xff\xfe", "not a text file in UTF-8"),
        (
            b"[modle]\nx = 1\n",
            ": modle.x: no stage or section is called 'modle'. Did you mean model?",
        ),
        (b"[loss]\nclp = 1\n", ": loss.clp: loss 'try-clipped' has no field 'clp'. Did you mean"),
        (b"[loss]\nname = 'no'\n", ": no loss is called 'no'."),
        (b"[rewards.try-tally]\nweight = 1\n", "reward 'try-tally' is not in use (try-taste"),
        (b"algo = 'sdpo'\n", ": algo = 'sdpo', but this run uses 'try-algo'"),
        (b"rewards = 3\n", ": rewards: no stage of 'try-algo' has a field 'rewards'."),
        (b"[loss]\nclip = -1\n", "loss.clip = -1: input should be greater than 0"),
    ],
)
def test_each_wrong_config_file_is_one_problem_that_names_the_file(content, message, tmp_path):
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    (found,) = problems(config=file)
    assert message in found
    assert f"--config {file}" in found


def test_a_config_file_that_is_not_there_or_a_folder_is_a_problem(tmp_path):
    (found,) = problems(config=tmp_path / "none.toml")
    assert found == f"--config {tmp_path}/none.toml: No such file or directory"
    (found,) = problems(config=tmp_path)
    assert found == f"--config {tmp_path}: Is a directory"


def test_a_name_that_two_plugins_claim_stops_only_who_uses_it():
    class Copy:
        @hookimpl
        def diffrl_losses(self):
            return [registry().get("loss", "try-clipped").value]

    copy = Copy()
    registry().register(copy, "copy-for-tests", "copy", "2")
    try:
        resolve("try-algo", ["try-taste"], sets=["loss=clipped-ratio"])
        with pytest.raises(SettingsError) as stopped:
            resolve("ddpo", ["try-taste"], sets=["loss=try-clipped"])
        assert "toys-for-tests (toys 1.0) and copy-for-tests" in str(stopped.value)
    finally:
        registry().unregister(copy)


def test_evaluations_ask_a_sampler_for_no_more_steps_than_it_takes():
    sets = ("sampler=lcm", "eval.steps=[4, 64]")
    with pytest.raises(SettingsError, match="at most 50, the most steps of the sampler 'lcm'"):
        resolve("ddpo", ["pickscore"], sets=sets)
    resolve("ddpo", ["pickscore"], sets=("eval.steps=[4, 64]",))


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"ge": 3}, "input should be at least 3, the fewest steps of the sampler 'few'"),
        ({"gt": 2}, "input should be at least 3, the fewest steps of the sampler 'few'"),
        ({"lt": 8}, "input should be at most 7, the most steps of the sampler 'few'"),
        ({"gt": 1, "le": 8}, None),
    ],
)
def test_evaluations_keep_to_every_bound_of_a_sampler(bounds, said):
    class Few(Ddim):
        """Has bounds of its own."""

        name: ClassVar[str] = "few"
        steps: int = Field(5, description="Denoising steps.", **bounds)

    recipe = registry().get("algorithm", "ddpo").value.but(name="with-few", sampler=Few())
    plugin = SimpleNamespace(
        diffrl_samplers=hookimpl(lambda: [Few]), diffrl_algorithms=hookimpl(lambda: [recipe])
    )
    registry().register(plugin, "few-for-tests")
    try:
        with pytest.raises(SettingsError, match=said) if said else nullcontext():
            resolve("with-few", ["pickscore"], sets=("eval.steps=[2, 8]", "sampler.steps=5"))
    finally:
        registry().unregister(plugin)


def test_rewards_are_needed_where_they_are_asked_for():
    stored = ["sampler=stored", "sampler.file=pairs.jsonl", "reward_predictor=labels"]
    assert resolve("d3po", [], sets=stored).rewards == ()
    with pytest.raises(SettingsError, match="no reward to train on; add --reward NAME"):
        resolve("d3po", [], sets=["sampler=stored", "sampler.file=p", "reward_predictor=terminal"])
    with pytest.raises(SettingsError, match="no reward to train on"):
        resolve("sdpo", [])


def test_lengths_of_a_recipe_give_way_to_a_number_of_steps():
    base = registry().get("algorithm", "ddpo").value
    mixed = base.but(name="mixed-lengths", sampler=Ddim(steps=4, lengths=(4, 2)))

    @hookimpl
    def brings():
        return [mixed]

    plugin = SimpleNamespace(diffrl_algorithms=brings)
    registry().register(plugin)
    try:
        found = resolve("mixed-lengths", ["pickscore"], "sd-turbo", sets=["sampler.steps=8"])
        assert (found.recipe.sampler.steps, found.recipe.sampler.lengths) == (8, ())
        kept = resolve("mixed-lengths", ["pickscore"], sets=["sampler.lengths=[3]"])
        assert kept.recipe.sampler.lengths == (3,)
    finally:
        registry().unregister(plugin)


def test_what_is_watched_is_not_lost_on_the_way():
    with pytest.raises(SettingsError, match=r"eval\.watch = 'imagereward': input should be a list"):
        resolve("sdpo", ["pickscore"], sets=["eval.watch=imagereward"], watch=["hpsv2"])
    with pytest.raises(SettingsError, match="imagereward:3: what is only watched has no weight"):
        resolve("sdpo", ["pickscore"], sets=['eval.watch=["imagereward:3"]'])


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["eval.eta=0"], "watchdog.kl = 0.1: evaluations give no KL .* no noise; raise eval.eta"),
        (["eval.eta=0", 'watchdog.rules=["kl=off"]'], None),
        (["eval.eta=0", "watchdog.action=off"], None),
        (["eval.eta=0.5"], None),
        (["sampler=ode"], "no KL to the base model, as the sampler 'ode', .* keeps no path"),
    ],
)
def test_a_kl_that_no_evaluation_gives_cannot_be_watched(sets, said):
    context = pytest.raises(SettingsError, match=said) if said else nullcontext()
    with context:
        resolve("sdpo", ["pickscore"], sets=["watchdog.kl=0.1", *sets])

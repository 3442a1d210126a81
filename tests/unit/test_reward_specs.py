"""What `--reward` and `--watch` may name, and what becomes of it."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from diffrl.cli import main
from diffrl.errors import RewardError, SettingsError, UnknownName
from diffrl.functions import FunctionScorer, imported
from diffrl.scoring import ScoredBy
from diffrl.settings.resolve import dump, load, resolve
from diffrl.settings.rewards import read_spec
from diffrl.stages import Reward
from diffrl.trainer.preflight import preflight
from diffrl.trainer.scorers import load_rewards

MODULE = """
def bright(images, prompts):
    return images.mean((1, 2, 3))

def as_list(images, prompts):
    return [float(len(p)) for p in prompts]

def as_array(images, prompts):
    return images.mean((1, 2, 3)).numpy().astype("float64")

def words(images, prompts):
    return list(prompts)

def best(images, prompts):
    scores = images.mean((1, 2, 3))
    return scores.argsort().argsort()

best.groupwise = True
best.scale = 100
best.higher_is_better = False
number = 7
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "taste_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("taste_of_mine", None)


@pytest.mark.parametrize(
    ("spec", "name", "weight"),
    [
        ("pickscore", "pickscore", None),
        ("pickscore:0.5", "pickscore", "0.5"),
        ("taste_of_mine:as_list", "as-list", None),
        ("taste_of_mine:as_list:-2e-1", "as-list", "-2e-1"),
        ("a.b_c:d", "d", None),
        ("mine=taste_of_mine:bright:3", "mine", "3"),
        ("http://127.0.0.1:8765", "served-127-0-0-1-8765", None),
        ("http://127.0.0.1:8765:2", "served-127-0-0-1-8765", "2"),
        ("https://host.example/rewards", "served-host-example-rewards", None),
        ("http://[::1]:99", "served-1-99", None),
        ("hps=http://host:1", "hps", None),
    ],
)
def test_a_spec_is_a_name_a_function_or_a_server(spec, name, weight):
    found = read_spec(spec)
    assert (found.name, found.weight) == (name, weight)


def test_a_wrong_weight_stays_a_wrong_weight():
    assert read_spec("pickscore:heavy").weight == "heavy"
    with pytest.raises(SettingsError, match=r"rewards\.pickscore\.weight = 'heavy'"):
        resolve("sdpo", ["pickscore:heavy"])


def test_a_registered_reward_keeps_its_name():
    with pytest.raises(SettingsError, match=r"only package\.module:function or http"):
        read_spec("mine=pickscore")
    with pytest.raises(UnknownName, match=r"'pikscore'\. Did you mean pickscore"):
        read_spec("pikscore")


@pytest.mark.parametrize("name", ["bright", "as_list", "as_array"])
def test_a_function_may_return_a_list_an_array_or_a_tensor(name):
    reward = read_spec(f"taste_of_mine:{name}").reward()
    images = torch.rand(3, 3, 4, 4)
    scores = reward.load("cpu")(images, ["a", "bb", "ccc"])
    assert scores.shape == (3,) and scores.dtype == torch.float32
    assert reward.problems() == []


def test_what_a_function_says_of_itself_counts():
    loaded = ScoredBy.load(read_spec("taste_of_mine:best").reward(), "cpu", 2.0)
    assert loaded.groupwise and loaded.scale == 100
    assert loaded.factor == -2.0


def test_a_function_that_returns_words_is_named():
    scorer = FunctionScorer("taste_of_mine:words", imported("taste_of_mine:words"))
    with pytest.raises(RewardError, match="taste_of_mine:words gave a list; expected 2 numbers"):
        scorer(torch.rand(2, 3, 4, 4), ["a", "b"])


@pytest.mark.parametrize(
    ("algo", "sets", "said"),
    [
        ("ddpo", [], r"'best' compares the pictures of a group, but sampler\.group is 1; raise it"),
        ("ddpo", ["sampler.group=4"], None),
        ("sdpo", [], "predictor 'anchors' may ask for each at a step of its own; set reward_pred"),
        ("sdpo", ["reward_predictor.anchor=random"], "at a step of its own"),
        ("sdpo", ["reward_predictor.anchor=fixed"], None),
        ("sdpo", ["reward_predictor.query=first-last"], None),
    ],
)
def test_a_reward_that_compares_is_refused_where_it_would_see_single_pictures(algo, sets, said):
    settings = resolve(algo, ["taste_of_mine:best"], sets=["eval.watch=[]", *sets])
    with pytest.raises(SettingsError, match=said) if said else nullcontext():
        load_rewards(settings, "cpu")


def test_a_reward_that_compares_may_be_watched():
    settings = resolve("ddpo", ["taste_of_mine:bright"], sets=["eval.watch=[]"])
    watching = replace(settings, watched=(read_spec("taste_of_mine:best").reward(),))
    assert load_rewards(watching, "cpu")[1][0].groupwise


@pytest.mark.parametrize(
    ("images", "refused"), [(1, True), (3, True), (5, True), (6, False), (90, False)]
)
def test_a_reward_that_compares_needs_two_pictures_of_each_prompt(images, refused):
    sets = ["eval.watch=[]", f"eval.images={images}"]
    settings = resolve("ddpo", ["taste_of_mine:bright"], sets=sets)
    watching = replace(settings, watched=(read_spec("taste_of_mine:best").reward(),))
    said = f"'best' compares .* eval.images = {images} for 3 prompts, .*; set eval.images to 6"
    with pytest.raises(SettingsError, match=said) if refused else nullcontext():
        load_rewards(watching, "cpu", ("a", "b", "c"))
    load_rewards(settings, "cpu", ("a", "b", "c"))


def test_a_reward_whose_class_compares_is_refused_before_weights_load():
    class Ranks(Reward):
        name: ClassVar[str] = "ranks"
        groupwise: ClassVar[bool] = True

    sets = ["eval.watch=[]", "eval.images=45"]
    settings = resolve("ddpo", ["taste_of_mine:bright"], sets=sets)
    preflight(settings, None)
    with pytest.raises(SettingsError, match=r"'ranks' compares .* set eval\.images to 90 or more"):
        preflight(replace(settings, watched=(Ranks(),)), None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module_here:f", "cannot import no_such_module_here"),
        ("taste_of_mine:nothing", "taste_of_mine has no 'nothing'"),
        ("taste_of_mine:number", "7 is not a function"),
    ],
)
def test_what_cannot_be_called_is_a_problem_before_anything_loads(path, message):
    (line,) = read_spec(path).reward().problems()
    assert message in line


def test_functions_and_servers_survive_the_saved_settings(tmp_path):
    settings = resolve(
        "sdpo",
        ["taste_of_mine:bright:2", "far=http://127.0.0.1:1"],
        sets=["rewards.far.timeout=7"],
        watch=["jpeg-compressibility", "taste_of_mine:as_list"],
    )
    assert settings.eval.watch == (
        "animal-accuracy",
        "jpeg-compressibility",
        "taste_of_mine:as_list",
    )
    (tmp_path / "settings.toml").write_text(dump(settings))
    again = load(tmp_path / "settings.toml")
    assert dump(again) == dump(settings)
    assert [w.reward.name for w in again.rewards] == ["bright", "far"]
    assert [w.weight for w in again.rewards] == [2.0, 1.0]
    assert again.rewards[1].reward.url == "http://127.0.0.1:1"
    assert [r.name for r in again.watched] == ["animal-accuracy", "jpeg-compressibility", "as-list"]


def test_watching_what_is_trained_on_changes_nothing():
    settings = resolve("sdpo", ["pickscore"], watch=["pickscore"])
    assert [r.name for r in settings.watched] == ["animal-accuracy"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagereward=http://host:1", "call it something else: mine=http://host:1"),
        ("http://user:secret@host:1", "without user, query or secrets"),
        ("http://host:1/score?token=secret", "without user, query or secrets"),
    ],
)
def test_names_that_are_taken_and_secrets_are_refused(spec, message):
    with pytest.raises(SettingsError) as stopped:
        resolve("sdpo", [spec])
    assert message in str(stopped.value)


def test_what_is_watched_twice_under_one_name_or_with_a_weight_is_refused():
    watch = ["taste_of_mine:bright", "other_taste:bright", "jpeg-compressibility:2"]
    with pytest.raises(SettingsError) as stopped:
        resolve("sdpo", ["pickscore"], watch=watch)
    assert "call it NAME=other_taste:bright" in str(stopped.value)
    assert "--watch jpeg-compressibility:2: what is only watched has no weight" in str(
        stopped.value
    )


def test_a_watched_reward_is_not_taken_for_another_of_its_name(tmp_path):
    (tmp_path / "other_taste.py").write_text(MODULE)
    other = "other_taste:bright"
    ways = ({"watch": [other]}, {"sets": [f'eval.watch=["{other}"]']})
    for way in ways:
        with pytest.raises(SettingsError, match=f"call this one NAME={other}"):
            resolve("sdpo", ["taste_of_mine:bright"], **way)
    both = resolve("sdpo", ["taste_of_mine:bright"], watch=["taste_of_mine:bright"])
    assert "bright" not in [r.name for r in both.watched]
    named = resolve("sdpo", ["taste_of_mine:bright"], watch=[f"mine={other}"])
    assert "mine" in [r.name for r in named.watched]


@pytest.mark.parametrize("command", ["serve-reward", "eval"])
def test_a_weight_means_nothing_but_in_training(command, capsys):
    words = {
        "serve-reward": ["pickscore:0.5"],
        "eval": ["bundled:pipeline", "--reward", "pickscore:0.5"],
    }
    with pytest.raises(SystemExit) as stopped:
        main([command, *words[command]])
    assert stopped.value.code == 2
    assert "pickscore:0.5: a weight means nothing here" in capsys.readouterr().err


def test_a_watched_reward_can_be_left_out_later(tmp_path):
    settings = resolve("sdpo", ["pickscore"], watch=["far=http://127.0.0.1:1"])
    (tmp_path / "settings.toml").write_text(dump(settings))
    again = load(tmp_path / "settings.toml", sets=["eval.watch=[]"])
    assert again.watched == ()


def test_an_unknown_watched_reward_is_named():
    with pytest.raises(SettingsError, match=r"no reward is called 'hpsv3'\. Did you mean hpsv2"):
        resolve("sdpo", ["pickscore"], watch=["hpsv3"])

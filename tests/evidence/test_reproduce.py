"""`diffrl reproduce`: a card passes where its figures are found again, and only there."""

import json
from pathlib import Path

import pytest

import diffrl
from diffrl.errors import SettingsError
from diffrl.evidence.reproduce import Check, card, names, settings_of
from diffrl.types import LossOut

SHORTEST = "emoji-sdpo-quick"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

CARD = """
about = "two epochs of a small random pipeline"
source = "this test"
minutes = 0.1
[run]
algo = "sdpo"
rewards = ["pickscore"]
preset = "emoji"
epochs = 2
sets = {sets}
[expected.{seed}.2]
{figures}
"""


@pytest.fixture(scope="module")
def own(runs, sets, tmp_path_factory):
    """A card of the run `sdpo/1`."""
    last = diffrl.Run(runs / "sdpo/1").metrics[-1]
    keys = [k for k in last if k.startswith("eval/pickscore")]
    figures = "\n".join(f'"{k}" = [{last[k]}, 1e-4]' for k in keys)
    path = tmp_path_factory.getbasetemp() / "own.toml"  # weights must lie below its folder
    path.write_text(CARD.format(sets=sets, seed=1, figures=figures))
    return path


def test_what_was_found_once_is_found_again(own, command, tmp_path):
    code, out, _ = command("reproduce", own, "--output", tmp_path / "run")
    assert code == 0 and out.splitlines()[-1] == f"own: pass. The run: {tmp_path / 'run'}"
    before = (tmp_path / "run/metrics.jsonl").stat().st_mtime_ns
    code, out, _ = command("reproduce", own, "--output", tmp_path / "run")
    assert code == 0 and "run before, at " in out and "not run again" in out
    assert (tmp_path / "run/metrics.jsonl").stat().st_mtime_ns == before  # finished: not run again


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("commit", "0123abc", "commit 0123abc and not "), ("packages", {}, "diffrl None and not ")],
)
def test_a_run_of_other_code_says_nothing_about_this(key, value, said, own, command, tmp_path):
    assert command("reproduce", own, "--output", tmp_path / "run")[0] == 0
    file = tmp_path / "run/environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    code, out, err = command("reproduce", own, "--output", tmp_path / "run")
    assert code == 2 and said in err and "give another --output" in err
    assert "pass" not in out


def test_other_figures_fail_with_exit_code_1(own, command, tmp_path):
    lines = own.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('"eval/pickscore/2-step"'))
    lines[at] = '"eval/pickscore/2-step" = [99.0, 1.0]'
    other = own.with_name("other.toml")
    other.write_text("\n".join([*lines, '"eval/nothing/1-step" = [0.0, 1.0]']))
    code, out, _ = command("reproduce", other, "--output", tmp_path / "run")
    assert code == 1 and out.splitlines()[-1].startswith("other: fail: 2 of 3 figures.")


@pytest.fixture
def broken_loss(monkeypatch):
    """Takes the gradient from SDPO's loss."""
    from diffrl_sdpo import RewardDifference

    whole = RewardDifference.__call__

    def without_gradient(self, policy, batch):
        out = whole(self, policy, batch)
        return LossOut(out.value * 0, out.metrics)

    monkeypatch.setattr(RewardDifference, "__call__", without_gradient)


def test_a_broken_loss_fails_a_card(own, command, tmp_path, broken_loss):
    code, out, _ = command("reproduce", own, "--output", tmp_path / "run")
    assert code == 1 and out.splitlines()[-1].startswith("own: fail: 2 of 2 figures.")


def test_the_shortest_card_passes_and_would_not_without_training(command, tmp_path):
    assert names()[0] == SHORTEST
    code, out, _ = command("reproduce", SHORTEST, "--output", tmp_path / "run")
    assert code == 0, out
    untrained = diffrl.Run(tmp_path / "run").metrics[0]
    one = card(SHORTEST)
    figures = one.figures(one.seeds[0])
    assert figures and not any(Check(f, untrained[f.metric]).passed for f in figures)


@pytest.mark.slow
def test_a_broken_loss_fails_the_shortest_card(command, tmp_path, broken_loss):
    code, out, _ = command("reproduce", SHORTEST, "--output", tmp_path / "run")
    assert code == 1, out


def test_every_card_can_be_resolved_and_asks_only_for_what_its_run_measures():
    for name in names():
        one = card(name)
        settings = settings_of(one, one.seeds[0])
        steps = {f"{n}-step" for n in settings.eval.steps}
        for figures in one.expected.values():
            assert max(f.epoch for f in figures) == settings.train.epochs
            assert {f.metric.split("/")[2] for f in figures} <= steps


def test_a_model_that_has_not_learned_fails_every_figure():
    zoo = json.loads((RESULTS / "zoo.json").read_text())["algorithms"]
    default = json.loads((RESULTS / "default_run.json").read_text())["runs"][0]["before"]
    untrained = {algo: {k: v[0] for k, v in row["before"].items()} for algo, row in zoo.items()}
    untrained["sdpo"] = default
    for name in (n for n in names() if n.startswith("emoji-") and n != SHORTEST):
        before = untrained[name.removeprefix("emoji-")]
        for figures in card(name).expected.values():
            assert not any(Check(f, before[f.metric]).passed for f in figures)


def test_cards_cover_every_algorithm_in_the_emoji_world_and_the_table_of_the_paper():
    from diffrl.registry import registry

    there = set(names())
    first_party = {
        n for n, e in registry().components("algorithm").items() if e.package == "diffrl"
    }
    assert {f"emoji-{name}" for name in first_party} <= there
    assert sum(name.startswith("sd-turbo-") for name in there) == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["emoji-sdpoo"], "no card is called 'emoji-sdpoo'. Did you mean emoji-sdpo"),
        (["emoji-sdpo", "--seed", "7"], "--seed 7: the card 'emoji-sdpo' knows seeds 42, 43, 44"),
        (["nothing.toml"], "no card is called 'nothing.toml'"),
        (["{misspelt}"], "(ValueError: nothing is called process, run.set); expected about"),
        (["{broken}"], "not a reproduction card (KeyError: 'run'); expected about, source"),
        (["sd-turbo-sdpo-pickscore"], "is of 4 processes, and this is 1: accelerate launch"),
        (["{own}", "--output", "{run}"], "holds another run than the card 'own'; choose another"),
    ],
)
def test_what_cannot_be_reproduced_is_said(words, said, own, runs, command, tmp_path):
    broken = tmp_path / "broken.toml"
    broken.write_text('about = "nothing"\n')
    misspelt = tmp_path / "misspelt.toml"
    misspelt.write_text("process = 4\n" + own.read_text().replace("sets = [", "set = ["))
    where = {"broken": broken, "misspelt": misspelt, "own": own, "run": runs / "ddpo/1"}
    given = [word.format(**where) for word in words]
    code, _, told = command("reproduce", *given)
    assert code == 2 and told.startswith("error:") and said in told


def test_a_card_names_files_beside_it_and_none_of_where_it_is_run(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "card", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
        (folder / f"{folder.name}.txt").write_text("a cat\n")
    monkeypatch.chdir(elsewhere)
    path = home / "one.toml"
    for name, where in (("card", str(home / "card.txt")), ("elsewhere", None)):
        sets = [f"train.prompts={name}.txt"]
        path.write_text(CARD.format(sets=sets, seed=1, figures='"loss/value" = [1, 1]'))
        if where:
            assert settings_of(card(str(path)), 1).train.prompts == where
        else:
            with pytest.raises(SettingsError, match=r"'elsewhere\.txt' lies outside of"):
                settings_of(card(str(path)), 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('["pickscore"]', '["pickscore", "os:system"]', "'system' would run os:system of this"),
        ('["pickscore"]', '["pickscore", "http://far:1"]', "would send pictures to http://far:1"),
        ("sets = [", "sets = ['train.prompts=/etc/hostname', ", "lies outside of"),
        ("sets = [", "sets = ['eval.prompts=../a.txt', ", "eval.prompts = '../a.txt' lies outside"),
        ("sets = [", "sets = ['train.prompts=~nobodyxyz/p', ", "lies outside of"),
        ("sets = [", "sets = ['eval.watch=[\"os:getenv\"]', ", "would run os:getenv"),
    ],
)  # fmt: skip
def test_a_card_from_a_file_stays_in_its_folder(old, new, said, own, command, tmp_path):
    path = own.with_name("strange.toml")
    text = own.read_text().replace("'eval.watch=[]', ", "")
    assert old in text
    path.write_text(text.replace(old, new))
    code, _, told = command("reproduce", path, "--output", tmp_path / "run")
    assert code == 2 and "the card 'strange' may not do this; train it yourself" in told
    assert said in told and not (tmp_path / "run").exists()

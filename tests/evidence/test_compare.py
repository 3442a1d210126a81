"""`diffrl compare`: settings that differ, and verdicts that need more than luck."""

import json
import shutil
from dataclasses import replace

import pytest

from diffrl.evidence.compare import pairs
from diffrl.evidence.files import Answers
from diffrl.evidence.verdicts import verdicts
from diffrl.trainer.observers import evaluated_at, forget


def test_settings_that_differ_are_named_and_no_others(runs, command):
    code, out, _ = command("compare", runs / "sdpo/1", runs / "sdpo/2")
    assert code == 0
    settings = out.split("\n\n")[0].splitlines()
    assert [line.split() for line in settings[1:]] == [["train.seed", "1", "2"]]
    assert "true of these two models" in out


def test_a_run_is_not_distinguishable_from_itself(runs, command):
    code, out, _ = command("compare", runs / "sdpo/1", runs / "sdpo/1", "--json")
    content = json.loads(out)
    assert code == 0 and content["settings"] == {}
    (found,) = content["verdicts"].values()
    assert {v["verdict"] for v in found} == {"not distinguishable"}
    assert {v["change"]["mean"] for v in found} == {0.0}
    assert {v["change"]["low"] for v in found} == {None}
    _, out, _ = command("compare", runs / "sdpo/1", runs / "sdpo/1")
    assert out.count("0.00, no interval") == len(found)


def test_verdicts_of_single_runs_pair_the_pictures(runs, tmp_path, command):
    better = tmp_path / "better"
    shutil.copytree(runs / "sdpo/1", better)
    path = sorted((better / "evaluations").iterdir())[-1]
    record = json.loads(path.read_text())
    for name, shift in (("eval/pickscore/1-step", 1.0), ("picture/edges/2-step", -1.0)):
        own = record["scores"][name]
        record["scores"][name] = [v + shift * (1 + n / 99) for n, v in enumerate(own)]
    path.write_text(json.dumps(record))
    _, out, _ = command("compare", runs / "sdpo/1", better, "--json")
    (found,) = json.loads(out)["verdicts"].values()
    said = {v["metric"]: v["verdict"] for v in found if v["verdict"] != "not distinguishable"}
    assert said == {"eval/pickscore/1-step": "better", "picture/edges/2-step": "lower"}


def test_what_does_not_change_an_evaluation_does_not_part_runs(runs, tmp_path, command):
    other = tmp_path / "other"
    shutil.copytree(runs / "sdpo/1", other)
    prompts = tmp_path / "mine.txt"
    asked = json.loads(sorted((other / "evaluations").iterdir())[-1].read_text())["prompts"]
    prompts.write_text("\n".join(asked))
    path, lines = other / "settings.toml", []
    section = ""
    for line in path.read_text("utf-8").splitlines():
        section = line.strip("[]") if line.startswith("[") else section
        if section == "train" and line.startswith("sample_batch ="):
            line = "sample_batch = 3"
        if section == "eval" and line.startswith("prompts ="):
            continue
        lines.append(line)
        if line == "[eval]":
            lines.append(f"prompts = {json.dumps(str(prompts))}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    code, out, err = command("compare", runs / "sdpo/1", other, "--json")
    assert code == 0, err
    content = json.loads(out)
    assert {"train.sample_batch", "eval.prompts"} <= set(content["settings"])
    assert all(content["verdicts"].values())


def answer(values, rewards=None, lower=()):
    name = "eval/cost/1-step"
    own = rewards or {"cost": {"scale": 1}}
    return Answers(
        "training", 2, {}, {name: list("abcdefghij")}, {name: values}, own, frozenset(lower)
    )


def test_less_of_a_reward_can_be_better():
    more = [float(i) for i in range(10)]
    less = [v / 2 - 5 for v in more]
    for lower, said in ((("cost",), "better"), ((), "worse")):
        found, told = verdicts([answer(more, lower=lower)], [answer(less, lower=lower)])
        assert [v.verdict for v in found] == [said] and told == []


def test_rewards_of_one_name_but_other_settings_are_not_compared():
    one, other = answer([1.0] * 10), answer([2.0] * 10, {"cost": {"scale": 2}})
    found, told = verdicts([one], [other])
    assert found == [] and told == ["reward 'cost' is not the same in both; left out"]


def test_a_reward_that_ranks_the_pictures_of_one_model_is_not_compared():
    one, other = (replace(answer([v] * 10), groupwise=frozenset({"cost"})) for v in (1.0, 2.0))
    found, (told,) = verdicts([one], [other])
    assert found == [] and told.startswith("reward 'cost' scores pictures only beside others")


def test_a_reward_of_one_alone_is_named():
    both = {"cost": {"scale": 1}}
    one, other = answer([1.0] * 10, both), answer([2.0] * 10, {**both, "beauty": {}})
    found, told = verdicts([one], [other])
    assert len(found) == 1
    assert told == ["reward 'beauty' scored the pictures of one alone; left out"]


def test_runs_that_share_no_epoch_but_the_untrained_one_are_not_compared(runs, command, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, gone in ((one, "00001.json"), (other, "00002.json")):
        shutil.copytree(runs / "sdpo/1", folder)
        (folder / "evaluations" / gone).unlink()
    code, out, err = command("compare", one, other)
    assert code == 2 and "epoch 0" not in out
    assert "no epoch of training was evaluated in all" in err and "diffrl eval" in err


def judged(sets, measured):
    """Return the answers of a run that `diffrl eval` asked about sets of prompts."""
    values = {f"{name}/moved/2-step": [1.0, 2.0, 3.0] for name in sets}
    asked = {"seed": 0, "prompts": sets}
    items = {name: ["a", "b", "c"] for name in values}
    return Answers("eval", 2, asked, items, values, {}, frozenset(), measured)


def test_evaluations_are_compared_on_the_prompts_that_they_share():
    one = judged({"unseen": ["a", "b", "c"], "animals": ["fox"]}, {"moved": "base"})
    other = judged({"unseen": ["a", "b", "c"], "my.txt": ["owl"]}, {"moved": "base"})
    ((a, b),) = pairs([[one]], [[other]])
    found, told = verdicts(a, b)
    assert [v.metric for v in found] == ["unseen/moved/2-step"] and told == []
    assert list(pairs([[one]], [[judged({"my.txt": ["owl"]}, {})]])) == []


def test_measures_from_another_base_model_are_not_compared():
    sets = {"unseen": ["a", "b", "c"]}
    found, told = verdicts([judged(sets, {"moved": "one"})], [judged(sets, {"moved": "other"})])
    assert found == [] and told == ["moved: of another base model or CLIP; left out"]


def test_a_torn_evaluation_leaves_those_of_training(runs, command, tmp_path):
    shutil.copytree(runs / "sdpo/1", tmp_path / "torn")
    (tmp_path / "torn" / "evaluation.json").write_text('{"format": 0}')
    code, out, told = command("compare", runs / "sdpo/2", tmp_path / "torn")
    assert code == 2 and "not written by this version's" in told
    assert "eval/pickscore/1-step" in out


def test_pictures_without_a_score_are_left_out_of_a_pair():
    nan = float("nan")
    one = answer([nan, *(float(i) for i in range(9))])
    other = answer([99.0, *(i + 1.0 for i in range(9))])
    ((verdict,), _) = verdicts([one], [other])
    assert verdict.change.mean == 1.0 and verdict.change.count == 9
    assert verdicts([answer([nan] * 10)], [other]) == ([], [])


def test_folders_of_runs_are_compared_by_their_runs(runs, command, tmp_path):
    for algo in ("sdpo", "ddpo"):  # other tests may have judged some of them afterwards
        left_out = shutil.ignore_patterns("evaluation.json", "checkpoints")
        shutil.copytree(runs / algo, tmp_path / algo, ignore=left_out)
    code, out, _ = command("compare", tmp_path / "sdpo", tmp_path / "ddpo")
    assert code == 0 and "Welch's t over runs" in out
    assert "algo" in out and "train.seed" not in out
    judged = json.dumps({"format": 1, "own": "x"})
    (tmp_path / "sdpo" / "1" / "evaluation.json").write_text(judged)
    code, out, told = command("compare", tmp_path / "sdpo", tmp_path / "ddpo")
    assert code == 2 and "Welch's t over runs" in out and "sdpo/1/evaluation.json" in told
    code, _, told = command("compare", runs, runs / "sdpo/1")
    assert code == 2 and "expected a folder with settings.toml, or one of such" in told


def test_runs_asked_different_things_are_not_compared(runs, sets, command, tmp_path):
    import diffrl

    other = [*sets, "eval.seed=7"]
    diffrl.train("sdpo", "pickscore", sets=other, epochs=1, output=tmp_path / "o", live=False)
    code, _, told = command("compare", runs / "sdpo/2", tmp_path / "o")
    assert code == 2 and "ask both the same with: diffrl eval RUN RUN" in told


def test_evaluations_of_two_runs_are_compared_as_well(runs, command, tmp_path):
    pair = [f"a={runs / 'ddpo/1'}", f"b={runs / 'ddpo/2'}"]
    some = ["--steps", "3", "--prompts", "unseen", "--reward", "jpeg-compressibility"]
    assert command("eval", *pair, *some, "-o", tmp_path / "e.json")[0] == 0
    _, out, _ = command("compare", runs / "ddpo/1", runs / "ddpo/2")
    assert "unseen/jpeg-compressibility/3-step" in out and "unseen/moved/3-step" in out
    shutil.copytree(runs / "ddpo/2", tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare/checkpoints")  # the figures stay true of what is gone
    code, out, told = command("compare", runs / "ddpo/1", tmp_path / "bare")
    assert code == 0 and "unseen/moved/3-step" in out, told
    shutil.copytree(runs / "ddpo/2", tmp_path / "other")
    other = ["--seed", "9", "-o", tmp_path / "other.json"]
    assert command("eval", tmp_path / "other", *some, *other)[0] == 0
    code, out, told = command("compare", runs / "ddpo/1", tmp_path / "other")
    assert code == 2 and "unseen/moved/3-step" not in out and "eval/pickscore/1-step" in out
    assert "ask both the same with: diffrl eval RUN RUN" in told


def test_whose_weights_were_judged_is_said(runs, command, tmp_path):
    young, some = tmp_path / "young", ["--steps", "1", "--prompts", "unseen"]
    some += ["--reward", "jpeg-compressibility"]
    shutil.copytree(runs / "ddpo/2", young)
    shutil.rmtree(young / "checkpoints" / "2")
    shutil.copytree(runs / "ddpo/1", old := tmp_path / "old")
    code, _, told = command("eval", old, young, *some, "-o", tmp_path / "e.json")
    assert code == 0, told
    _, out, _ = command("compare", old, young)
    assert "training are of epoch 2, those of diffrl eval are of epoch 2 beside 1\n" in out
    assert "true of these two models" in out
    assert evaluated_at(old) == 2 and evaluated_at(young) == 1
    forget(old, 1, 2)
    forget(young, 1, 2)
    assert not (old / "evaluation.json").exists() and (young / "evaluation.json").exists()


def test_one_run_against_several_is_told_as_what_it_is(runs, command):
    _, out, _ = command("compare", runs / "sdpo", runs / "ddpo/1")
    assert "true of one model and the mean of 2." in out


def test_unfinished_runs_are_compared_as_far_as_both_went(runs, command, tmp_path):
    young = tmp_path / "young"
    shutil.copytree(runs / "sdpo/2", young)
    (young / "evaluations/00002.json").unlink()
    code, out, told = command("compare", runs / "sdpo/1", young)
    assert code == 2 and f"{young}: unfinished, evaluated up to epoch 1 of 2" in told
    assert "evaluations in training are of epoch 1\n" in out and "eval/pickscore/1-step" in out


def test_a_copy_is_no_second_run(runs, command, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(runs / "sdpo/1", tmp_path / "both" / name)
    code, _, told = command("compare", runs / "sdpo", tmp_path / "both")
    assert code == 2 and "several of its runs have one seed; a copy is no second run" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{runs}/sdpo/1"], "expected at least two runs"),
        (["{runs}/sdpo/1", "nowhere"], "no run in nowhere"),
        (["{runs}/sdpo/1", "{copy}"], "no evaluation there to compare; make one with: diffrl eval"),
    ],
)
def test_what_cannot_be_compared_is_said(words, said, runs, tmp_path, command):
    copy = tmp_path / "copy"
    shutil.copytree(runs / "ddpo/1", copy)
    shutil.rmtree(copy / "evaluations")
    (copy / "evaluation.json").unlink(missing_ok=True)
    code, _, told = command("compare", *(w.format(runs=runs, copy=copy) for w in words))
    assert code == 2 and said in told


def test_a_broken_evaluation_of_one_leaves_the_others_compared(runs, tmp_path, command):
    copy = tmp_path / "copy"
    shutil.copytree(runs / "ddpo/1", copy)
    path = sorted((copy / "evaluations").iterdir())[-1]
    path.write_text("{")
    code, out, told = command("compare", runs / "ddpo/1", runs / "sdpo/1", copy)
    assert code == 2 and f"cannot read {path}" in told
    assert f"{runs / 'sdpo/1'} beside {runs / 'ddpo/1'}" in out and "eval/pickscore/1-step" in out


def test_a_broken_evaluation_is_named(runs, tmp_path, command):
    copy = tmp_path / "copy"
    shutil.copytree(runs / "ddpo/1", copy)
    path = sorted((copy / "evaluations").iterdir())[-1]
    for text in ("{", "[]", '{"scores": 3}'):
        path.write_text(text)
        code, _, told = command("compare", runs / "ddpo/1", copy)
        assert code == 2 and f"cannot read {path}" in told


def test_one_that_cannot_be_read_leaves_the_others_compared(runs, command, tmp_path):
    code, out, told = command("compare", runs / "ddpo/1", tmp_path / "no", runs / "sdpo/1")
    assert code == 2 and f"no run in {tmp_path / 'no'}" in told
    assert f"{runs / 'sdpo/1'} beside {runs / 'ddpo/1'}" in out and "eval/pickscore/1-step" in out


@pytest.mark.parametrize("kept", [["00000.json"], []])
def test_a_run_that_has_just_begun_takes_no_verdict_away(kept, runs, command, tmp_path):
    young = tmp_path / "several" / "2"
    shutil.copytree(runs / "ddpo", young.parent, ignore=shutil.ignore_patterns("evaluation.json"))
    for path in (young / "evaluations").iterdir():
        if path.name not in kept:
            path.unlink()
    code, out, told = command("compare", runs / "ddpo/1", runs / "sdpo/1", young, "--json")
    found = json.loads(out)
    assert code == 2 and f"{young}: unfinished, evaluated up to epoch 0 of 2" in told
    assert found["epochs"] == {str(runs / "sdpo/1"): 2, str(young): None}
    assert found["verdicts"][str(runs / "sdpo/1")] and not found["verdicts"][str(young)]
    code, out, told = command("compare", runs / "sdpo/1", young.parent)
    assert code == 2 and f"{young}: unfinished, evaluated up to epoch 0 of 2; left out" in told
    assert "evaluations in training are of epoch 2\n" in out


def test_lost_diversity_is_compared(runs, command, tmp_path):
    """It is of all pictures of a prompt together, which training's evaluations have, too."""
    key, prompts = "picture/diversity/2-step", [f"prompt {n}" for n in range(8)]
    for name, less in (("sdpo", 0.0), ("ddpo", 1.0)):
        shutil.copytree(runs / name / "1", tmp_path / name)
        path = tmp_path / name / "evaluations/00002.json"
        own = {prompt: 9.0 + n / 8 - less * (1 + n / 9) for n, prompt in enumerate(prompts)}
        path.write_text(json.dumps({**json.loads(path.read_text()), "by_prompt": {key: own}}))
    _, out, _ = command("compare", tmp_path / "sdpo", tmp_path / "ddpo", "--json")
    (found,) = json.loads(out)["verdicts"].values()
    assert {v["metric"]: v["verdict"] for v in found}[key] == "lower"

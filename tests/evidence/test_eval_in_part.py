"""`diffrl eval` where not everything can be judged, or was judged before."""

import json
import shutil

from diffrl.errors import OutOfMemory


def test_a_run_that_was_mistyped_is_not_looked_for_on_the_hub(runs, command, monkeypatch):
    monkeypatch.chdir(runs)
    code, _, told = command("eval", "sdpo/11")  # a hub id by its form
    assert code == 2 and "sdpo/11: nothing is there;" in told and "Did you mean 1?" in told


def test_what_cannot_be_judged_leaves_the_others_judged(runs, command, tmp_path):
    young = tmp_path / "young"
    shutil.copytree(runs / "ddpo/2", young)
    for name in ("metrics.jsonl", "checkpoints/1/metrics.jsonl"):
        path = young / name
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    shutil.rmtree(young / "checkpoints/2")
    target = tmp_path / "e.json"
    some = ["--reward", "jpeg-compressibility", "--steps", "1", "--prompts", "unseen"]
    code, out, told = command("eval", tmp_path / "none", young, *some, "-o", target)
    assert code == 2 and "none: nothing is there" in told
    assert f"{young}: unfinished, at epoch 1 of 2; what was judged is its checkpoint of" in told
    assert "young" in out and target.is_file()
    code, _, told = command("eval", f"{young}@1", *some, "-o", target)
    assert code == 0, told  # that epoch was asked for


def test_a_model_whose_weights_do_not_fit_leaves_the_others_judged(runs, command, tmp_path):
    lora, target = tmp_path / "l.safetensors", tmp_path / "e.json"
    lora.write_bytes(b"no weights at all")
    words = [tmp_path / "none", f"bad={lora}", runs / "ddpo/1", "--base", "none", "-o", target]
    code, out, told = command(
        "eval", *words, "--reward", "jpeg-compressibility", "--steps", "1", "--prompts", "unseen"
    )
    error = told.partition("error: ")[2]
    assert code == 2 and "none: nothing is there" in error
    assert "bad: not judged: " in error and "its weights do not fit the model" in error
    subjects = {cell["subject"] for cell in json.loads(target.read_text())["cells"]}
    assert subjects == {"1"} and f"every picture's scores: {target}" in out


def test_what_was_found_wrong_is_told_where_something_ends_it_all(
    runs, command, tmp_path, monkeypatch
):
    def ends(*_):
        raise OutOfMemory("memory ends")

    monkeypatch.setattr("diffrl.evidence.evaluation.Artist", ends)
    some = ["--reward", "jpeg-compressibility", "--steps", "1", "-o", tmp_path / "e.json"]
    code, _, told = command("eval", tmp_path / "none", runs / "ddpo/1", *some)
    assert code == 3 and "none: nothing is there" in told and "error: memory ends" in told


def test_a_reward_that_cannot_score_a_set_is_told_by_its_name(runs, command, tmp_path):
    (tmp_path / "street.txt").write_text("a quiet street\n")
    some = ["--steps", "1", "--prompts", "unseen", "--prompts", tmp_path / "street.txt"]
    some += ["--reward", "animal-accuracy", "-o", tmp_path / "e.json"]
    code, out, told = command("eval", runs / "sdpo/1", *some)
    assert code == 0 and "animal-accuracy" in out
    assert "left out: reward 'animal-accuracy' for " in told and "street.txt: " in told


def test_a_smaller_question_does_not_replace_what_a_run_keeps(runs, command, tmp_path):
    run, some = tmp_path / "run", ["--prompts", "unseen", "-o", tmp_path / "e.json"]
    shutil.copytree(runs / "sdpo/2", run)
    two = ["--reward", "jpeg-compressibility", "--reward", "jpeg-incompressibility"]
    assert command("eval", run, *some, *two, "--steps", "1")[0] == 0
    before = (run / "evaluation.json").read_bytes()
    code, _, told = command("eval", run, *some, *two[:2], "--steps", "1")
    assert code == 0 and f"not kept in {run}: its evaluation.json holds this and more" in told
    assert (run / "evaluation.json").read_bytes() == before
    code, _, told = command("eval", run, *some, *two[:2], "--steps", "1", "--seed", "9")
    assert code == 0 and "evaluation.json" not in told  # of other pictures: nothing is lost
    (run / "evaluation.json").write_bytes(before)
    code, _, told = command("eval", run, *some, *two[:2], "--steps", "2")
    assert "evaluation.json: no longer holds all of " in told and "jpeg-incompressibility" in told
    assert (run / "evaluation.json").read_bytes() != before

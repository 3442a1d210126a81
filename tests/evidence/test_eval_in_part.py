"""`diffrl eval` where not everything can be judged, or was judged before."""

import shutil


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

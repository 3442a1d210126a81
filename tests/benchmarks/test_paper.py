"""The benchmark of the paper's claims: its verdicts, its runs, and its quick tier."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.paper import (  # noqa: E402
    accuracy,
    cells,
    experiments,
    figures,
    price,
    records,
    runs,
    verdicts,
)
from benchmarks.paper.published import BEFORE, TABLE_ONE  # noqa: E402
from benchmarks.paper.warm import Warm  # noqa: E402
from diffrl.cli.children import begin  # noqa: E402

TIER = cells.Tier("test", 3, ("train.epochs=2",), 16)
CELLS = {"good": cells.Cell("good", "sdpo"), "bad": cells.Cell("bad", "ddpo")}


@pytest.fixture
def kept(tmp_path):
    return records.Records(TIER, tmp_path / "records")


def leave(folder, shift, seed, seconds=10.0):
    """Leave what a finished run leaves: three evaluations of ten pictures."""
    (folder / "evaluations").mkdir(parents=True)
    (folder / "environment.json").write_text(json.dumps({"commit": "abc"}))
    lines = []
    for epoch in (0, 1, 2):
        rng = torch.Generator().manual_seed(seed)
        scores = torch.randn(10, generator=rng) * 0.1 + seed % 3 * 0.05 + shift * epoch
        record = {"epoch": epoch, "scores": {"eval/pickscore/1-step": scores.tolist()}}
        (folder / f"evaluations/{epoch:05d}.json").write_text(json.dumps(record))
        lines.append(json.dumps({"epoch": epoch, "seconds": seconds * epoch}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "report.html").write_text("")


def pretend(kept, name, shift, seed, seconds=10.0):
    """Keep the record of a run like that."""
    folder = kept.root.parent / name / str(seed)
    leave(folder, shift, seed, seconds)
    kept.keep(CELLS[name], seed, folder)


def claim(**more):
    good, bad = CELLS.values()
    return experiments.Claim("Fig. 0", "good above bad", good, bad, (1,), **more)


def test_a_claim_is_judged_by_seeds_where_there_are_several(kept):
    assert verdicts.judge(claim(), kept).said == "not run"
    for seed in (42, 43, 44):
        pretend(kept, "good", 1.0, seed)
        pretend(kept, "bad", 0.2, seed)
    found = verdicts.judge(claim(), kept)
    assert (found.said, found.test, found.seeds) == ("reproduced", verdicts.WELCH, 3)
    assert found.change.mean == pytest.approx(1.6, abs=1e-4)
    other = experiments.Claim("", "", claim().worse, claim().better, (1,))
    assert verdicts.judge(other, kept).said == "contradicted"
    same = experiments.Claim("", "", claim().better, claim().better, (1,))
    assert verdicts.judge(same, kept).said == "not distinguishable"
    gained = experiments.Claim("", "", claim().better, None, (1,))
    assert verdicts.judge(gained, kept).change.mean == pytest.approx(2.0, abs=1e-4)
    fallen = verdicts.judge(dataclasses.replace(gained, falls=True), kept)
    assert (fallen.said, fallen.change.mean) == ("contradicted", pytest.approx(-2.0, abs=1e-4))


def test_what_seeds_have_in_common_is_no_noise_where_they_are_paired(kept):
    for seed, luck in ((42, 0.0), (43, 5.0), (44, -5.0)):
        pretend(kept, "good", 1.0 + luck, seed)
        pretend(kept, "bad", 0.2 + luck + seed / 1000, seed)
    found = verdicts.judge(claim(), kept)
    assert (found.said, found.said_by_seed) == ("not distinguishable", "reproduced")
    assert found.by_seed.mean == pytest.approx(found.change.mean, abs=1e-6)
    other = experiments.Claim("", "", claim().worse, claim().better, (1,))
    assert verdicts.judge(other, kept).said_by_seed == "contradicted"


def test_a_single_seed_pairs_pictures_and_says_so(kept):
    pretend(kept, "good", 1.0, 42)
    pretend(kept, "bad", 0.2, 42)
    found = verdicts.judge(claim(), kept)
    assert (found.said, found.test, found.seeds) == (verdicts.FOR, verdicts.PAIRED, 1)
    assert found.by_seed is None


def test_two_seeds_are_no_verdict(kept):
    for seed in (42, 43):
        pretend(kept, "good", 1.0, seed)
        pretend(kept, "bad", 0.2, seed)
    found = verdicts.judge(claim(), kept)
    assert (found.said, found.test, found.seeds) == (verdicts.FOR, verdicts.WELCH, 2)


def test_by_time_the_slower_run_counts_as_far_as_the_faster_went(kept):
    pretend(kept, "good", 1.0, 42, seconds=10.0)
    pretend(kept, "bad", 1.0, 42, seconds=20.0)
    by_time = verdicts.judge(claim(measure="seconds"), kept)
    assert by_time.change.mean == pytest.approx(1.0, abs=1e-4)  # epoch 2 against epoch 1
    assert verdicts.judge(claim(), kept).change.mean == pytest.approx(0.0, abs=1e-4)


def test_a_record_counts_while_weights_and_settings_are_the_same(kept, tmp_path):
    pretend(kept, "good", 1.0, 42)
    one = kept.get(CELLS["good"], 42)
    assert [e.epoch for e in one.evaluations] == [0, 1, 2]
    assert (one.commit, one.seconds) == ("abc", 20.0)
    changed = cells.Tier("test", 3, ("train.epochs=7",), 16)
    assert records.Records(changed, kept.root).get(CELLS["good"], 42) is None
    assert kept.get(cells.Cell("good", "sdpo", sets=("gamma=1",)), 42) is None
    file = kept.file(CELLS["good"], 42)
    file.write_text(file.read_text().replace(one.identity, "0" * 16))
    assert kept.get(CELLS["good"], 42) is None


def test_a_finished_folder_is_taken_over_and_the_rest_is_still_to_be_made(kept, tmp_path):
    good, bad = CELLS.values()
    leave(runs.place(tmp_path, good, TIER, 42), 1.0, 42)
    leave(tmp_path / "bad" / "42-of-other-weights", 1.0, 42)
    assert list(runs.missing([good, bad], kept, tmp_path))[:2] == [(bad, 42), (good, 43)]
    assert kept.seeds([good]) == [42]
    assert kept.seeds([good, bad]) == []
    shown = runs.place(tmp_path, good, TIER, 43)  # by `diffrl report`, while it is unfinished
    leave(shown, 1.0, 43)
    lines = (shown / "metrics.jsonl").read_text().splitlines()
    (shown / "metrics.jsonl").write_text("\n".join(lines[:2]) + "\n")
    assert (good, 43) in runs.missing([good], kept, tmp_path)


def test_stopping_ends_what_has_begun_and_counts_it_as_still_to_be_made(
    kept, tmp_path, monkeypatch, capsys
):
    def begun(cell, tier, seed, folder, jobs):
        started.append(begin(["sleep", "60"], runs.log(folder)))
        return started[-1]

    def stop(seconds):
        raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(runs, "start", begun)
    monkeypatch.setattr(runs.time, "sleep", stop)
    left, failed = runs.run_all([CELLS["good"]], kept, tmp_path, 2, time.monotonic() + 60)
    assert (left, failed) == (3, [])
    assert len(started) == 2 and all(one.poll() is not None for one in started)
    assert capsys.readouterr().out.startswith("stopped")


def test_a_run_that_is_refused_says_why_in_its_log(tmp_path):
    run, told = tmp_path / "run", tmp_path / "logs" / "run.log"
    one = Warm("sdpo", "pickscore", ["train.epochs=none"], run, told, 1)
    one.wait()
    assert one.poll() == one.returncode == 2
    assert "train.epochs" in told.read_text() and not run.exists()


def test_a_curve_is_the_mean_over_finished_seeds_with_a_band(kept):
    for seed in (42, 43):
        pretend(kept, "good", 1.0, seed, seconds=float(seed))
    drawn = figures.chart(kept, "fig", "title", CELLS, (1,))
    (line,) = drawn.lines  # of the other cell nothing is there
    each = [one.evaluations for one in kept.finished(CELLS["good"])]
    assert line.x == [0.0, 64.0, 128.0]
    means = [[sum(e.scores["eval/pickscore/1-step"]) / 10 for e in own] for own in each]
    assert line.y == pytest.approx([(a + b) / 2 for a, b in zip(*means, strict=True)])
    assert line.band[0] == pytest.approx(abs(means[0][0] - means[1][0]) / 2**0.5)
    by_time = figures.chart(kept, "fig", "title", CELLS, (1,), "seconds")
    assert by_time.lines[0].x == [0.0, 42.5, 85.0]
    assert figures.chart(kept, "fig", "title", {"bad": CELLS["bad"]}) is None
    ends = records.before_and_after(kept.finished(CELLS["good"]))["eval/pickscore/1-step"]
    assert ends["after"] == pytest.approx([own[-1] for own in means], rel=1e-4)


def test_each_prompt_is_told_what_its_pictures_gained():
    """Evaluations draw prompts in turn; numbers of steps weigh alike."""
    before = records.Evaluation(0, 0.0, {"1-step": [1.0, 5.0, 3.0, 5.0], "2-step": [0.0, 0.0] * 2})
    after = records.Evaluation(1, 9.0, {"1-step": [3.0, 5.0, 5.0, 5.0], "2-step": [4.0, 0.0] * 2})
    run = records.Record("", "", "", [before, after])
    assert records.gained([run, run], ["a", "b"]) == {"a": [3.0, 3.0], "b": [0.0, 0.0]}


def test_figures_are_drawn_of_what_there_is(kept, tmp_path, monkeypatch):
    figures.save(kept, tmp_path / "figures")
    assert list((tmp_path / "figures").iterdir()) == []  # nothing is kept of the paper's cells
    one = records.Evaluation(0, 0.0, {f"eval/pickscore/{n}-step": [1.0, 2.0] for n in (1, 2, 4, 8)})
    known = records.Record("", "", "", [one, dataclasses.replace(one, epoch=1, seconds=9.0)])
    monkeypatch.setattr(records.Records, "get", lambda *_: known)
    monkeypatch.setattr(experiments, "unseen", lambda algo, _: CELLS["good"])
    said = figures.save(kept, tmp_path / "figures")
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert set(said) == drawn
    assert said["fig-8"] == (
        "Sampled as an LCM is, 3 seeds: PickScore (± sd over seeds) over samples"
    )
    assert "PickScore (± sd over seeds)" in (tmp_path / "figures/fig-8.svg").read_text("utf-8")
    assert drawn >= {"fig-4-1", "fig-5-samples", "fig-5-seconds", "fig-6-norm", "fig-7-8", "fig-8"}


def test_curves_of_one_chart_are_of_the_same_seeds(kept):
    for seed, shift in ((42, 1.0), (43, 1.0), (44, 9.0)):
        pretend(kept, "good", shift, seed)
    pretend(kept, "bad", 1.0, 42)
    pretend(kept, "bad", 1.0, 43)
    drawn = figures.chart(kept, "c", "Both", CELLS, (1,))
    good, bad = drawn.lines
    assert good.y == bad.y and drawn.title == "Both, 2 seeds"


def test_by_time_only_runs_of_one_machine_are_drawn(kept, monkeypatch):
    machines = iter(["one", "one", "one", "other"])
    monkeypatch.setattr(records, "machine", lambda: next(machines))
    for seed in (42, 43):
        pretend(kept, "good", 1.0, seed)
        pretend(kept, "bad", 1.0, seed)
    assert figures.chart(kept, "c", "t", CELLS, (1,), "seconds").title == "t, 1 seed"
    assert figures.chart(kept, "c", "t", CELLS, (1,)).title == "t, 2 seeds"


def test_by_time_only_runs_of_one_commit_are_judged_and_drawn(kept):
    pretend(kept, "good", 1.0, 42)
    pretend(kept, "bad", 1.0, 42)
    assert verdicts.judge(claim(measure="seconds"), kept).seeds == 1
    file = kept.file(CELLS["bad"], 42)
    file.write_text(file.read_text().replace('"commit": "abc"', '"commit": "other"'))
    assert verdicts.judge(claim(measure="seconds"), kept).said == verdicts.APART
    assert figures.chart(kept, "c", "t", CELLS, (1,), "seconds") is None
    assert verdicts.judge(claim(), kept).seeds == 1


def test_every_claim_of_table_one_is_what_its_figures_say():
    """Each reward has, for each number of steps, SDPO beside three others and four gains."""
    claims = experiments.table_one()
    for one in claims:
        table, place = TABLE_ONE[one.better.reward], experiments.STEPS.index(*one.steps)
        other = table[one.worse.algo if one.worse else BEFORE][place]
        above = not one.falls
        assert (table[one.better.algo][place] > other) is above, one
        assert one.text.startswith(
            "the model before training above" if one.falls else one.better.algo
        )
    assert len(claims) == 4 * 4 * 7 and sum(one.falls for one in claims) == 4


def test_every_predictor_is_judged_in_the_end_and_on_the_way():
    claims = experiments.figure_five()
    for cell in experiments.PREDICTORS.values():
        assert {c.measure for c in claims if c.worse == cell} >= {"end", "area"}


def test_seeds_that_agree_to_the_last_digit_decide_nothing():
    found = verdicts.within_seeds([[0.0]] * 3, [[1.0]] * 3)
    assert found.mean == 1.0 and verdicts.direction(found) == ""


def test_accuracy_of_predicted_rewards_in_cases_with_an_answer():
    exact = torch.randn(32, 50)

    def near(given):
        return accuracy.near(accuracy.apart(given, exact), [str(i) for i in range(32)])

    assert near(exact + 7.0)["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert near(exact + 7.0)["l2"] == pytest.approx(0.0, abs=1e-5)
    constant = exact[:, -1:].expand(-1, 50)
    assert near(constant)["cosine"] == pytest.approx(0.0, abs=1e-5)
    assert near(constant)["l2"] == pytest.approx(1.0, abs=1e-5)
    assert near(-exact)["cosine"] == pytest.approx(-1.0, abs=1e-5)


def test_trajectories_that_repeat_each_other_tell_no_more():
    values = torch.randn(16)
    alone = accuracy.error(values, [str(i) for i in range(16)])
    assert alone == pytest.approx(float(values.std() / 4))
    twice = accuracy.error(values.repeat(2), [str(i % 16) for i in range(32)])
    assert twice == pytest.approx(alone)


def test_a_predictor_is_judged_by_every_measure():
    exact = torch.randn(32, 50)
    near, far = (accuracy.apart(exact + n * torch.randn(32, 50), exact) for n in (0.1, 1.0))
    prompts = [str(number // 2) for number in range(32)]
    assert {one["said"] for one in accuracy.claims(near, far, prompts).values()} == {"reproduced"}
    assert {one["said"] for one in accuracy.claims(far, near, prompts).values()} == {"contradicted"}
    assert {one["said"] for one in accuracy.claims(far, far, prompts).values()} == {
        "not distinguishable"
    }
    same = accuracy.claims(near, far, prompts)["l1"]
    assert same["low"] <= float(far.l1.mean() - near.l1.mean()) <= same["high"]


def test_every_claim_names_runs_that_can_be_resolved():
    from diffrl.settings.resolve import resolve

    claims = [c for part in experiments.PARTS.values() for c in part()]
    every = experiments.cells_of(claims)
    assert len({cell.name for cell in every}) == len(every)
    for tier in cells.TIERS.values():
        for cell in every:
            resolve(cell.algo, [cell.reward], sets=[*tier.sets, *cell.sets])


@pytest.mark.slow
def test_the_quick_tier_runs_from_end_to_end(tmp_path):
    target = ROOT / "benchmarks/results/paper_quick.json"
    before = target.read_bytes() if target.exists() else None
    command = [sys.executable, "-m", "benchmarks.paper", "--tier", "quick", "--folder", tmp_path]
    command += ["--records", tmp_path / "records"]
    began = time.monotonic()
    try:
        subprocess.run(command, check=True, cwd=ROOT)
        assert time.monotonic() - began < 20 * 60  # of two cores without other work
        said = {v["said"] for v in json.loads(target.read_text())["verdicts"]}
        assert "not run" not in said
    finally:
        if before is not None:
            target.write_bytes(before)


def test_a_whole_run_is_priced_by_its_first_epochs():
    """Two slow ones, then pairs of 5 and 3 seconds, and an evaluation of 7 every ten.

    Of the 41 seconds of the process, 13 are its start, its first evaluation, and its end.
    """
    at = {0: 0.0, 1: 9.0, 2: 13.0, 3: 18.0, 4: 28.0}
    lines = [{"epoch": e, "seconds": s, "seconds/start": 6.0} for e, s in at.items()]
    lines[-1] |= {"seconds/sample": 1.0, "seconds/score": 1.5, "seconds/update": 0.5}
    assert price.whole(lines, 28 + 13, 40) == 13 + 13 + 19 * 8 + 4 * 7

"""The benchmark of the paper's claims: its verdicts, its runs, and its quick tier."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.paper import accuracy, cells, experiments, verdicts  # noqa: E402

TIER = cells.Tier("test", 3, (), 16)


def pretend(folder, shift, seed, seconds=10.0):
    """Leave what a finished run leaves: three evaluations of ten pictures."""
    (folder / "evaluations").mkdir(parents=True)
    lines = []
    for epoch in (0, 1, 2):
        rng = torch.Generator().manual_seed(seed)
        scores = torch.randn(10, generator=rng) * 0.1 + seed % 3 * 0.05 + shift * epoch
        record = {"epoch": epoch, "scores": {"eval/pickscore/1-step": scores.tolist()}}
        (folder / f"evaluations/{epoch:05d}.json").write_text(json.dumps(record))
        lines.append(json.dumps({"epoch": epoch, "seconds": seconds * epoch}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "report.html").write_text("")


def claim(**more):
    good, bad = cells.Cell("good", "sdpo"), cells.Cell("bad", "ddpo")
    return experiments.Claim("Fig. 0", "good above bad", good, bad, (1,), **more)


def test_a_claim_is_judged_by_seeds_where_there_are_several(tmp_path):
    assert verdicts.judge(claim(), tmp_path, TIER).said == "not run"
    for seed in (42, 43, 44):
        pretend(tmp_path / f"good/{seed}", 1.0, seed)
        pretend(tmp_path / f"bad/{seed}", 0.2, seed)
    found = verdicts.judge(claim(), tmp_path, TIER)
    assert (found.said, found.test, found.seeds) == ("reproduced", verdicts.WELCH, 3)
    assert found.change.mean == pytest.approx(1.6, abs=1e-5)
    other = experiments.Claim("", "", claim().worse, claim().better, (1,))
    assert verdicts.judge(other, tmp_path, TIER).said == "contradicted"
    same = experiments.Claim("", "", claim().better, claim().better, (1,))
    assert verdicts.judge(same, tmp_path, TIER).said == "not distinguishable"
    gained = experiments.Claim("", "", claim().better, None, (1,))
    assert verdicts.judge(gained, tmp_path, TIER).change.mean == pytest.approx(2.0, abs=1e-5)


def test_a_single_seed_pairs_pictures_and_says_so(tmp_path):
    pretend(tmp_path / "good/42", 1.0, 42)
    pretend(tmp_path / "bad/42", 0.2, 42)
    found = verdicts.judge(claim(), tmp_path, TIER)
    assert (found.said, found.test, found.seeds) == (verdicts.FOR, verdicts.PAIRED, 1)


def test_by_time_the_slower_run_counts_as_far_as_the_faster_went(tmp_path):
    pretend(tmp_path / "good/42", 1.0, 42, seconds=10.0)
    pretend(tmp_path / "bad/42", 1.0, 42, seconds=20.0)
    by_time = verdicts.judge(claim(measure="seconds"), tmp_path, TIER)
    assert by_time.change.mean == pytest.approx(1.0, abs=1e-5)  # epoch 2 against epoch 1
    assert verdicts.judge(claim(), tmp_path, TIER).change.mean == pytest.approx(0.0, abs=1e-5)


def test_accuracy_of_predicted_rewards_in_cases_with_an_answer():
    exact = torch.randn(32, 50)
    assert accuracy.near(exact + 7.0, exact)["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert accuracy.near(exact + 7.0, exact)["l2"] == pytest.approx(0.0, abs=1e-5)
    constant = exact[:, -1:].expand(-1, 50)
    assert accuracy.near(constant, exact)["cosine"] == pytest.approx(0.0, abs=1e-5)
    assert accuracy.near(constant, exact)["l2"] == pytest.approx(1.0, abs=1e-5)
    assert accuracy.near(-exact, exact)["cosine"] == pytest.approx(-1.0, abs=1e-5)


def test_every_claim_names_runs_that_can_be_resolved():
    from diffrl.settings.resolve import resolve

    claims = [c for part in experiments.PARTS.values() for c in part()]
    runs = experiments.cells_of(claims)
    assert len({cell.name for cell in runs}) == len(runs)
    for tier in cells.TIERS.values():
        for cell in runs:
            resolve(cell.algo, [cell.reward], sets=[*tier.sets, *cell.sets])


@pytest.mark.slow
def test_the_quick_tier_runs_from_end_to_end(tmp_path):
    target = ROOT / "benchmarks/results/paper_quick.json"
    before = target.read_bytes() if target.exists() else None
    command = [sys.executable, "-m", "benchmarks.paper", "--tier", "quick", "--folder", tmp_path]
    try:
        subprocess.run(command, check=True, cwd=ROOT)
        said = {v["said"] for v in json.loads(target.read_text())["verdicts"]}
        assert "not run" not in said
    finally:
        if before is not None:
            target.write_bytes(before)

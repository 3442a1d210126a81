"""The results table is computed from the benchmark's file, and every page shows that one."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(seed: int, after: float) -> dict:
    return {
        "seed": seed,
        "seconds": 120.0 + seed,
        "peak_memory_gib": 2.5,
        "before": {"eval/pickscore/4-step": 60.0, "eval/animal-accuracy/4-step": 99.0},
        "after": {"eval/pickscore/4-step": after, "eval/animal-accuracy/4-step": 98.0},
    }


@pytest.fixture
def measured() -> dict:
    runs = [run(0, 64.0), run(60, 68.0), run(30, 66.0)]
    return {"machine": "2 cores", "steps": [4], "real": {"pickscore": 80.0}, "runs": runs}


def test_table_gives_mean_spread_and_share_of_the_gap(generate, measured):
    from generators.results import results_table

    table = results_table(measured)
    row = "| 4 | 60.0 ± 0.0 | 66.0 ± 2.0 | 30 % (least 20 %) | 99.0 ± 0.0 | 98.0 ± 0.0 |"
    assert row in table.splitlines()


def test_table_says_what_the_slowest_run_took(generate, measured):
    from generators.results import results_table

    text = " ".join(results_table(measured).split())
    assert "seeds 0, 60, 30, *least* that of the worst of them; real renders score 80.0." in text
    assert "3.0 minutes and 2.5 GiB on 2 cores" in text


def test_readme_and_sdpo_page_show_the_same_results(generate):
    def shown(page: str) -> str:
        text = (ROOT / page).read_text("utf-8")
        return text.partition("<!-- results:begin -->")[2].partition("<!-- results:end -->")[0]

    assert shown("README.md").strip() == shown("docs/algorithms/sdpo.md").strip() != ""


@pytest.mark.parametrize("tier", ["quick", "full"])
def test_every_claim_of_the_paper_is_counted(generate, tier):
    from generators.paper import _counts, _measured

    found = _measured(tier)
    claims = [
        one
        for predictors in found["accuracy"]["rewards"].values()
        for predictor in predictors.values()
        for one in predictor.get("claims", {})
    ]
    rows = [line.strip("| ").split(" | ") for line in _counts(found).splitlines()[2:]]
    counted = {row[0]: sum(map(int, row[2:])) for row in rows}
    assert counted.pop("Tables II and III") == len(claims) == 60
    assert sum(counted.values()) == len(found["verdicts"])

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

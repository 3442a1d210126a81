"""The tables of speed, from made-up results."""

import json

import pytest


def epochs(*seconds):
    """Epochs of two lengths in turn."""
    return [
        {"seconds": one, "rows": {"unet/grad": (192, 64)[i % 2]}} for i, one in enumerate(seconds)
    ]


def one(seconds, gap=1e-7, off=1e-7, sets=("speed.recompute=off",)):
    told = {
        "trajectories_per_second": 10.0, "trajectories_per_processor_second": 5.0,
        "memory": 2**30, "log_prob_gap": gap, "sampling_gap": off, "gap_limit": 1e-4,
        "passes": gap <= 1e-4,
    }  # fmt: skip
    return {"sets": list(sets), "summary": told, "epochs": epochs(*seconds)}


@pytest.fixture
def tables(generate, tmp_path, monkeypatch):
    """Pretends a result of the ablation; returns the rows of its table by their first cell."""
    from generators import ablation

    monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    monkeypatch.setattr(ablation, "SIZES", {"tiny": "Tiny: a CPU"})
    rows = [
        {"name": "quick", "sets": ["a=1"], "together": True},
        {"name": "noisy", "sets": ["b=1"], "together": True},
        {"name": "merged", "sets": ["speed.merge=true"], "together": False},
    ]
    again = ("speed.recompute=off", "speed.recompute=on")
    found = {
        "base": one((8, 4, 9, 5)), "quick": one((6, 3, 7, 3)), "noisy": one((6, 3, 9, 4)),
        "merged": one((6, 3, 7, 3)), "together": one((2, 1, 2, 1), 0.0, 0.0, again),
        "together with merged": one((2, 1, 2, 1), 0.0, 7.65e-4, again),
    }  # fmt: skip
    result = {
        "configurations": found, "rows": rows, "base": ["plain"], "sets": [], "refused": {},
        "machine": "a machine", "environment": {"machine": {"threads": 2}, "commit": "0" * 40},
    }  # fmt: skip
    (tmp_path / "speed_ablation_tiny.json").write_text(json.dumps(result))
    lines = [line.split(" | ") for line in ablation.ablation().splitlines() if line[:2] == "| "]
    return {
        cells[0].removeprefix("| "): dict(zip(ablation.HEAD, cells, strict=True)) for cells in lines
    }


def test_a_gain_within_the_spread_is_not_in_bold(tables):
    assert tables["quick"]["gain"] == tables["together"]["gain"] == "**1.00 ×**"
    assert tables["noisy"]["gain"] == "1.00 ×"
    assert tables["noisy"]["spread"] == "40%"


def test_what_passes_by_recomputing_says_so_and_how_far_off_sampling_is(tables):
    assert tables["together"]["passes"] == "yes (recomputed)"
    assert tables["merged"]["passes"] == "yes"
    assert tables["merged"]["together without it, or with"] == "with: 10.0 (off 7.6e-04)"


def test_each_precision_has_its_own_rate(generate):
    from generators import speed

    about = {
        "published": {"precision": "fp16", "matmul_flops_per_second": 745e12},
        "diffrl": {"precision": "bf16", "matmul_flops_per_second": 694e12},
    }
    said = speed._rates({"about": about})
    assert said == "745,000 GFLOP/s in fp16 and 694,000 GFLOP/s in bf16"

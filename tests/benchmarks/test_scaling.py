"""The projection of what many GPUs send each other."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import scaling  # noqa: E402


def test_the_projection_trains_the_steps_of_the_preset():
    assert scaling.of_the_preset() == (50, 50)
    one = scaling.projected(scaling.SPLIT, 8, 50, 48)
    two = scaling.projected(scaling.SPLIT, 8, 50, 50)
    weights = scaling.SD_TURBO[scaling.SPLIT][0]
    more = two["link"] - one["link"]  # of 8 more backward passes, each with a call before
    assert more == pytest.approx(8 * (2 + 1 + 1) * 4 * weights * 7 / 8)


def test_all_rows_tell_what_crosses_a_link():
    whole = scaling.projected("all weights", 8, 50, 50)
    assert whole["link"] == pytest.approx(2 * 7 / 8 * whole["bytes"]["gradients"])
    split = scaling.projected(scaling.SPLIT, 8, 50, 50)
    assert split["link"] == split["bytes"]["gradients"] + split["bytes"]["weights of calls"]


def test_a_projection_alone_leaves_what_was_measured(tmp_path, monkeypatch):
    target = tmp_path / "scaling.json"
    target.write_text(json.dumps({"epochs": 3, "runs": {"adapters": {"saved": 1}}}))
    monkeypatch.setattr(sys, "argv", ["scaling", "--project", "--output", str(target)])
    scaling.main()
    found = json.loads(target.read_text())
    assert (found["epochs"], found["runs"]) == (3, {"adapters": {"saved": 1}})
    assert len(found["sd_turbo"]) == 9 and found["assumed"]["trained_steps"] == 50

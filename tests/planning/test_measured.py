"""Plans beside what was measured on a GPU, where epochs were trained and nothing was evaluated."""

import json
from pathlib import Path

import pytest

from diffrl.planning.devices import UTILISATION

FOUND = json.loads(
    (Path(__file__).parents[2] / "benchmarks/results/speed_ablation_sd_turbo.json").read_text()
)
CONTEXT = 2**29
"""Bytes of the CUDA context, which torch does not count."""


@pytest.mark.parametrize("name", FOUND["configurations"])
def test_a_plan_is_near_the_memory_that_was_measured(name, estimated):
    own = FOUND["configurations"][name]
    plan = estimated("sdpo", "sd-turbo", sets=own["sets"]).plan()
    held = sum(part.bytes for part in plan.held) - CONTEXT
    epoch = max(phase.bytes for phase in plan.phases if phase.name != "evaluating")
    assert held + epoch == pytest.approx(own["summary"]["memory"], rel=0.07)


def test_the_rate_that_is_assumed_is_that_of_the_measurement(estimated):
    own = FOUND["configurations"]["together"]
    sets = [*own["sets"], "speed.recompute=off"]  # as it was then
    estimate = estimated("sdpo", "sd-turbo", sets=sets)
    plan = estimate.plan()
    counted = sum(
        p.tflop or 0 for p in plan.phases if p.name in ("sampling", "scoring", "updating")
    )
    seconds = estimate.settings.train.trajectories / own["summary"]["trajectories_per_second"]
    assert counted / seconds / estimate.device.tflops == pytest.approx(UTILISATION, abs=0.01)

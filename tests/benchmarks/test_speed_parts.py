"""The flame graph, the ablation's configurations, and what both ways have to agree on."""

import copy
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import ablation, flame, measured  # noqa: E402
from benchmarks.speed.flops import of_epoch  # noqa: E402
from benchmarks.speed.sizes import settings_of  # noqa: E402
from benchmarks.speed.stacks import Sampler, network, phase  # noqa: E402


def busy(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


def test_the_sampler_finds_where_the_time_goes():
    with Sampler(rate=200) as sampler:
        busy(0.5)
    inside = sum(n for stack, n in sampler.stacks.items() if ("busy" in {f for f, _ in stack}))
    assert inside >= 0.8 * sum(sampler.stacks.values())
    assert sum(sampler.stacks.values()) > 20


UNET = ("UNet2DConditionModel.forward", "diffusers/models/unets/unet_2d_condition.py")
EPOCH, EVALUATED = ("_one_epoch", "diffrl/trainer/epochs.py"), ("evaluated", "diffrl/trainer/x.py")


def test_stacks_are_told_apart_by_network_and_phase():
    assert network([EPOCH, UNET, ("linear", "torch/nn/functional.py")]) == "UNet"
    assert network([EPOCH, ("gather", "diffrl/types.py")]) == ""
    assert phase([EPOCH, UNET]) == "epochs"
    assert phase([EPOCH, EVALUATED, UNET]) == "evaluation"
    found = flame.shares({(EPOCH, UNET): 30, (EPOCH, ("gather", "diffrl/types.py")): 10})
    assert found["phases"]["epochs"] == {"share": 1.0, "UNet": 0.75, "outside networks": 0.25}
    assert found["outside_networks_of_epochs"] == {"gather (diffrl/types.py)": 0.25}


def test_the_flame_graph_is_as_wide_as_the_time():
    stacks = {(EPOCH, UNET): 60, (EPOCH, ("<listcomp>", "diffrl/types.py")): 40}
    picture = ElementTree.fromstring(flame.flame(flame.tree(stacks)))
    boxes = picture.findall("{*}g")
    titles = [box.find("{*}title").text for box in boxes]
    widths = [float(box.find("{*}rect").get("width")) for box in boxes]
    assert titles[0] == "all : 100.0%"
    assert titles[-1] == "<listcomp> diffrl/types.py: 40.0%"
    assert widths[-1] == pytest.approx(0.4 * flame.WIDTH, abs=1)


def test_every_means_of_speed_is_measured_alone_and_left_out_or_added():
    found = ablation.configurations(ablation.ROWS)
    joined = [row for row in ablation.ROWS if row.together]
    assert len(found) == 2 + 2 * len(ablation.ROWS)
    for row in joined:
        assert set(row.sets) <= set(found["together"])
        assert not set(row.sets) & set(found[f"together without {row.name}"])
    for row in set(ablation.ROWS) - set(joined):
        assert set(row.sets) <= set(found[f"together with {row.name}"])


def test_a_means_that_the_settings_do_not_know_is_listed_as_such(tmp_path):
    options = ablation.arguments().parse_args(["--size", "emoji"])
    rows = [ablation.ROWS[0], ablation.Row("new", ("train.no_such_thing=1",))]
    good, refused = ablation.known(rows, options, tmp_path)
    assert good == rows[:1]
    assert "no_such_thing" in refused["new"]


ROWS = {"unet/no-grad": 16 * 3, "unet/grad": 48, "vae": 48, "reward": 48, "text": 8}


def test_ways_that_did_different_work_are_not_compared(tmp_path):
    settings = settings_of("emoji", tmp_path, ["train.trajectories=16"])
    epoch = {"steps": 3, "rows": dict(ROWS), "optimizer_steps": 2}
    same = {"published": [epoch], "diffrl": [copy.deepcopy(epoch)]}
    asked = {"asked/no-grad": 48 + 8, "asked/grad": 48}  # its gap
    less = {"unet/no-grad": 48, "unet/grad": 40, "reward": 40}  # alike rows and pictures
    same["diffrl"][0]["rows"] |= {**asked, **less}
    (work,) = measured.agreed(same, settings)
    assert (work["trajectories"], work["reward_queries"]) == (16, 48)
    for name, value in (("asked/grad", 32), ("asked/no-grad", 40), ("reward", 12)):
        other = copy.deepcopy(same)
        other["diffrl"][0]["rows"][name] = value
        with pytest.raises(SystemExit, match="the ways differ"):
            measured.agreed(other, settings)
    other = copy.deepcopy(same)
    other["diffrl"][0]["optimizer_steps"] = 1
    with pytest.raises(SystemExit, match="the ways differ in what they train"):
        measured.agreed(other, settings)


def test_memory_of_recorded_graphs_and_gaps_of_sampling_are_compared_where_they_were_measured():
    networks = {"unet/no-grad": 0.5, "unet/grad": 0.2, "backward": 0.2}
    epoch = {"steps": 3, "rows": ROWS, "seconds": 2.0, "processor_seconds": 2.0, "phases": {},
             "networks": networks, "log_prob_gap": 0.0}  # fmt: skip
    result = {
        "steps": [3], "trajectories": 16, "checkpoint": {"seconds": 0.0, "every": 1},
        "flops_per_row": dict.fromkeys((*ROWS, "unet/recomputed"), 1.0),
        "about": {way: {"precision": "fp32", "matmul_flops_per_second": 1e3}
                  for way in ("published", "diffrl")},
    }  # fmt: skip
    memory = {"peak": 4, "above": 2}
    repeats = {way: [{**epoch, "memory": dict(memory)}] for way in ("published", "diffrl")}
    plain = measured.summary(result, repeats)
    assert plain["ratio"]["memory"] == 1 and "sampling_gap" not in plain["diffrl"]
    repeats["published"][0]["memory"]["reserved"] = 10
    repeats["diffrl"][0] |= {"memory": {**memory, "reserved": 5}, "sampling_gap": 1e-3}
    found = measured.summary(result, repeats)
    assert found["ratio"]["memory"] == 0.5 and found["diffrl"]["sampling_gap"] == 1e-3


def test_log_probs_that_are_computed_anew_count_as_no_work():
    a_row = {"unet/grad": 30.0, "unet/recomputed": 10.0}
    assert of_epoch(a_row, {"unet/grad": 4, "unet/recomputed": 4}) == 120

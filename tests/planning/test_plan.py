"""Plans: calls counted on a recipe's own stages, parts, and settings that make a run fit."""

import importlib
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffrl_sdpo.loss import RewardDifference

from diffrl.errors import CheckpointMissing, PluginError, SettingsError
from diffrl.planning import advice, devices
from diffrl.planning.advice import half_precision, smaller, suggestions
from diffrl.planning.costs import Costs
from diffrl.planning.devices import GIB, GPUS, Device, byte_count, device_of
from diffrl.planning.plan import Plan
from diffrl.planning.probe import Probe
from diffrl.planning.scorers import scoring_networks
from diffrl.registry import registry
from diffrl.settings.resolve import resolve


def test_calls_of_sdpo_are_counted_as_the_trainer_makes_them(estimated):
    sets = ("sampler.steps=4", "train.sample_batch=48", "train.micro_batch=8")
    (epoch,) = estimated("sdpo", "emoji", sets=sets).epochs
    assert epoch.sampling == Counter({("forward", 48): 4, ("forward", 16): 4})
    assert epoch.updating == Counter({("train", 16): 4 * 3})
    assert (epoch.open, epoch.commits, epoch.rows) == (16, 3, 64)  # one step is left out
    assert epoch.accumulates


def test_networks_that_a_loss_asks_twice_are_counted_twice(estimated):
    sets = ("sampler.steps=4", "train.micro_batch=64")
    ddpo, d3po = (estimated(a, "emoji", sets=sets).epochs[0].updating for a in ("ddpo", "d3po"))
    assert sum(n for (kind, _), n in ddpo.items() if kind == "forward") == 0
    trained = sum(n for (kind, _), n in d3po.items() if kind == "train")
    assert sum(n for (kind, _), n in d3po.items() if kind == "forward") == trained


def test_guidance_doubles_the_rows(estimated):
    plain, guided = (
        estimated("ddpo", "emoji", sets=("sampler.steps=4", f"model.guidance={g}")).shape
        for g in (1, 3)
    )
    assert (guided.sampled, guided.trained) == (2 * plain.sampled, 2 * plain.trained)


def test_guidance_doubles_the_work_of_evaluations_too(estimated, cpu):
    sets = ("train.trajectories=4", "sampler.steps=1", "skip_last=0", "eval.images=4")
    plain, guided = (
        estimated("ddpo", "emoji", cpu(8 * GIB), sets=(*sets, f"model.guidance={g}")).plan()
        for g in (1, 3)
    )
    assert guided.phases[-1].tflop > 1.4 * plain.phases[-1].tflop  # the rest decodes and scores


def test_a_clip_that_is_watched_with_is_counted_once():
    rewards = [registry().get("reward", name).value() for name in ("aesthetic", "clipscore")]
    with torch.device("meta"):
        (trained,) = scoring_networks(rewards[:1], "meta")
        (watched,) = scoring_networks(rewards[1:], "meta", (trained,))
    assert watched.shared and not trained.shared and watched.network is trained.network


def test_advice_keeps_whole_groups(estimated, cpu):
    """Half of 66 would not be pairs."""
    sets = ("train.micro_batch=1", "train.decode_batch=1", "sampler.steps=2", "eval.images=2")
    sets = (*sets, "train.trajectories=66")
    many, fewer = (
        estimated("sdpo", "emoji", cpu(8 * GIB), sets=(*sets, f"train.sample_batch={n}"))
        for n in (66, 32)
    )
    assert many.plan().largest.name == "sampling"
    plan, advised = smaller(replace(many, device=cpu(fewer.plan().bytes)))
    assert plan.fits and advised == ("train.sample_batch=32",)


def test_a_gpu_without_bf16_is_advised_to_take_fp16(estimated):
    t4, h200 = (device_of(name, None, None, "auto", "fp32") for name in ("T4", "H200"))
    for precision, asked in (("fp32", ("fp16", "bf16")), ("bf16", ("bf16",) * 2)):
        settings = resolve("ddpo", ["pickscore"], sets=[f"model.precision={precision}"])
        low = tuple(half_precision(settings, device) for device in (t4, h200))
        assert low == (asked[0], asked[1])
    sets = ("train.trajectories=4", "sampler.steps=1", "skip_last=0", "model.precision=bf16")
    rounded = estimated("ddpo", "emoji", t4, sets=sets).plan()
    assert "T4 has no units for bf16; take model.precision=fp16" in rounded.notes


def test_a_rate_that_is_given_for_what_is_here_does_not_move_it_here(monkeypatch):
    mac = Device("this machine's mps", "cuda", 8 * GIB)
    monkeypatch.setattr(devices, "present", lambda wanted: mac)
    assert device_of(None, None, 2.0, "auto", "fp32") == replace(mac, tflops=2.0)


def test_lengths_share_the_time_and_the_longest_takes_the_memory(estimated):
    place = Device("a CPU", "cpu", 8 * GIB, 0.1)
    mixed, four = (
        estimated("sdpo", "emoji", place, sets=sets).plan() for sets in ((), ("sampler.steps=4",))
    )
    assert mixed.bytes == four.bytes
    assert mixed.epoch_seconds < four.epoch_seconds
    assert mixed.seconds == pytest.approx(40 * mixed.epoch_seconds + 3 * mixed.phases[-1].seconds)


def test_processes_share_the_pictures_of_an_epoch(estimated):
    sets = ("sampler.steps=10",)
    one, four = (estimated("sdpo", "sd-turbo", processes=n, sets=sets).epochs[0] for n in (1, 4))
    assert (one.rows, four.rows) == (256, 64)
    assert (one.updating["train", 4], four.updating["train", 4]) == (640, 160)
    assert four.commits == one.commits
    assert four.held == one.held // 4


def test_an_algorithm_of_strangers_is_planned(estimated, examples, monkeypatch):
    monkeypatch.syspath_prepend(examples / "diffrl_rwr")
    module = importlib.import_module("diffrl_rwr")
    registry().register(module)
    try:
        estimate = estimated("rwr", "emoji", sets=("sampler.steps=4", "train.micro_batch=16"))
        (epoch,) = estimate.epochs
        assert epoch.updating["train", 16] == 64 * 3 / 16
        assert estimate.plan().epoch_seconds > 0
    finally:
        registry().unregister(module)


def test_what_a_stage_returns_is_believed_no_more_than_in_a_run(estimated, monkeypatch):
    monkeypatch.setattr(RewardDifference, "__call__", lambda self, policy, batch: None)
    with pytest.raises(PluginError, match="gave None; expected LossOut"):
        estimated("sdpo", "emoji").plan()


def test_processes_that_split_weights_hold_a_part_of_what_is_trained(estimated):
    def held(shard):
        sets = ("adapter.kind=full", f"speed.shard={shard}")
        plan = estimated("ddpo", "emoji", processes=4, sets=sets).plan()
        assert {p.name: p.bytes for p in plan.phases[3].held}["gradients"] > 0
        assert any("send each other weights" in note for note in plan.notes) == (shard != "off")
        return {part.name: part.bytes for part in (*plan.held, *plan.phases[3].held)}

    off, gradients, weights = held("off"), held("gradients"), held("weights")
    for name in ("trained weights", "old and base weights", "optimizer", "gradients"):
        assert gradients[name] == weights[name] == pytest.approx(off[name] / 4, abs=4)
    assert gradients["weights put together"] == off["trained weights"]
    assert 0 < weights["weights put together"] < off["trained weights"]
    assert "weights put together" not in off and "gradients in exchange" not in weights
    assert "UNet, frozen weights" not in {**off, **weights}


def test_losses_of_whole_trajectories_put_all_split_weights_together(estimated):
    sets = ("adapter.kind=full", "speed.shard=weights")
    held = {p.name: p.bytes for p in estimated("prdp", "emoji", processes=4, sets=sets).plan().held}
    assert held["weights put together"] == pytest.approx(4 * held["trained weights"], abs=16)


def test_gradients_of_several_pieces_are_kept_to_go_back_to(estimated):
    def updating(*sets):
        plan = estimated("sdpo", "emoji", sets=("adapter.kind=full", *sets)).plan()
        return {part.name: part.bytes for part in plan.phases[3].held}

    several = updating("train.micro_batch=2")
    assert several["gradients to go back to"] == several["gradients"] > 0
    assert not updating("train.micro_batch=64").get("gradients to go back to")
    assert not updating("train.micro_batch=1").get("gradients to go back to")  # not done in two


def test_pieces_that_are_scored_beside_others_need_memory_for_both(estimated):
    def working(*sets):
        sets = ("train.sample_batch=16", *sets)
        plan = estimated("sdpo", "emoji", sets=sets).plan()
        return {phase.name: phase.working for phase in plan.phases}

    beside, alone = working(), working("train.overlap=off")
    assert beside["scoring"] == pytest.approx(alone["scoring"] + alone["sampling"], rel=1e-6)
    assert working("train.sample_batch=64")["scoring"] == alone["scoring"]  # one piece


def test_what_is_advised_is_not_refused(estimated, monkeypatch):
    monkeypatch.setattr(advice, "smaller", lambda _: (SimpleNamespace(bytes=1), ()))
    for place, found in (("RTX4090", True), ("T4", False)):  # which has no bf16
        estimate = estimated("sdpo", "sd-turbo", place, processes=8, sets=("adapter.kind=full",))
        assert estimate.settings.model.precision == "fp16"
        every = [
            one.settings
            for one in suggestions(replace(estimate, costs=object.__new__(Costs)), most=99)
        ]
        split = [sets for sets in every if "speed.shard=weights" in sets]
        assert split == ([("speed.shard=weights", "model.precision=bf16")] if found else [])


def test_splitting_weights_is_advised_first_where_only_that_helps(estimated):
    sets = ("adapter.kind=full", "train.micro_batch=1", "train.decode_batch=1")
    whole = estimated("ddpo", "emoji", processes=64, sets=sets)
    place = Device("a GPU", "cuda", int(whole.plan().bytes - 2e7), 1.0)
    estimate = estimated("ddpo", "emoji", place, processes=64, sets=sets)
    assert not estimate.plan().fits
    assert any(one.settings[0] == "speed.shard=weights" for one in suggestions(estimate))


@pytest.mark.slow
def test_every_suggestion_fits_and_nothing_twice_its_size_does(estimated, cpu):
    sets = ("train.micro_batch=64", "train.decode_batch=64", "sampler.steps=4")
    estimate = estimated("sdpo", "emoji", cpu(int(1.2 * GIB)), sets=sets)
    assert not estimate.plan().fits
    advised = suggestions(estimate)
    assert advised
    assert advised[0].note == ""  # batches alone come first: they change no result
    for one in advised:
        again = estimated("sdpo", "emoji", cpu(int(1.2 * GIB)), sets=(*sets, *one.settings)).plan()
        assert again.fits
        assert again.bytes == one.bytes
    sizes = dict(text.split("=") for text in advised[0].settings)
    for name, value in sizes.items():
        bigger = (*sets, *advised[0].settings, f"{name}={2 * int(value)}")
        assert not estimated("sdpo", "emoji", cpu(int(1.2 * GIB)), sets=bigger).plan().fits


@pytest.mark.slow
def test_full_finetuning_is_advised_to_take_adapters(estimated):
    sets = ("adapter.kind=full", "train.micro_batch=1", "train.decode_batch=1")
    estimate = estimated("ddpo", "sd-turbo", "T4", sets=sets)
    held = {part.name: part.bytes for part in estimate.plan().held}
    assert held["trained weights"] == 4 * 865_910_724
    assert held["optimizer"] == 8 * 865_910_724
    (one,) = suggestions(estimate)
    assert "adapter.kind=lora" in one.settings


def test_a_plan_goes_through_json(estimated, cpu):
    sets = ("train.micro_batch=64", "sampler.steps=4")
    estimate = estimated("sdpo", "emoji", cpu(int(1.2 * GIB)), sets=sets)
    plan = estimate.plan().suggesting(suggestions(estimate, most=1))
    said = json.loads(json.dumps(plan.as_json()))
    assert Plan.from_json(said) == plan
    assert said["decides"] == "updating"
    assert said["bytes"] == plan.bytes > plan.memory


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_can_be_planned_for(name):
    known, device = GPUS[name], device_of(name.lower(), None, None, "auto", "fp16")
    assert known.source
    assert device.memory < known.memory * GIB
    assert device.tflops == known.half > known.single
    assert device_of(name, None, None, "auto", "fp32").tflops == known.single
    rounded = device_of(name, None, None, "auto", "fp32", tf32=True).tflops
    assert rounded == (known.tf32 or known.single)


def test_sizes_are_read_as_people_write_them():
    assert byte_count("24GiB") == 24 * GIB
    assert byte_count("1.5 gb") == 1_500_000_000
    assert [byte_count(text) for text in ("24", "GiB", "-1GiB", "24 apples", "0GiB")] == [None] * 5


def test_what_is_wrong_with_a_device_is_said_at_once():
    with pytest.raises(SettingsError) as refused:
        device_of("RTX409", "24", -1.0, "auto", "fp16")
    assert len(refused.value.problems) == 4
    assert "Did you mean RTX4090" in str(refused.value)


def test_a_model_of_unknown_size_is_named(estimated):
    settings = resolve("ddpo", ["pickscore"], "emoji", sets=("model.ref=nobody/nothing-at-all",))
    assert settings.model.ref == "nobody/nothing-at-all"
    with pytest.raises(CheckpointMissing, match="cannot plan the model 'nobody/nothing-at-all'"):
        estimated("ddpo", "emoji", sets=("model.ref=nobody/nothing-at-all",)).plan()


def test_what_saves_memory_is_planned(estimated):
    usual, saving = (
        estimated("sdpo", "emoji", sets=sets).plan() for sets in ((), ("speed.low_memory=true",))
    )
    assert saving.bytes < 0.9 * usual.bytes
    less, more = ({p.name: p for p in plan.phases} for plan in (saving, usual))
    for name in ("sampling", "scoring", "updating"):
        assert less[name].working <= more[name].working
        rollouts = [{p.name: p.bytes for p in one[name].held}["rollout"] for one in (more, less)]
        assert rollouts[0] > rollouts[1] == 0
    assert less["updating"].working < 0.7 * more["updating"].working
    # One of three parts of a training pass is done again, where its activations were not kept.
    assert 1.1 * more["updating"].tflop < less["updating"].tflop < 4 / 3 * more["updating"].tflop
    assert [p.name for p in saving.held if "text encoder" in p.name] == []


def test_a_probed_gpu_has_its_context_too(estimated):
    estimate = estimated("sdpo", "emoji")
    probe = Probe(estimate.shape, 0.1, 0.1, 0.1, 0.1, started=0, grown=8 * GIB)
    unprobed = estimate.plan().held[0]
    estimate.measured = probe
    assert estimate.plan().held[0] == unprobed

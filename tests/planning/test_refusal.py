"""A run that cannot fit is refused before weights load, unless it is wanted anyway."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

import diffrl
from diffrl.cli import plan as command
from diffrl.errors import DoesNotFit
from diffrl.planning import devices, refusal
from diffrl.planning.devices import GIB
from diffrl.planning.memory import LIBRARIES
from diffrl.planning.probe import Probe
from diffrl.settings.resolve import resolve

QUICK = (
    "train.trajectories=4", "sampler.steps=2", "sampler.lengths=[]", "eval.images=2",
    "eval.steps=[1]", "train.prompts=animals",
)  # fmt: skip


@pytest.mark.slow
def test_a_run_that_cannot_fit_is_refused(tmp_path):
    sets = ["train.trajectories=16384", "train.sample_batch=16384", "train.micro_batch=8192"]
    with pytest.raises(DoesNotFit) as refused:
        diffrl.train("sdpo", "pickscore", sets=sets, output=tmp_path / "run", live=False)
    first, *rest = str(refused.value).splitlines()
    assert first.startswith("this run does not fit: it needs ")
    assert any("this fits: --set train.micro_batch=" in line for line in rest)
    assert rest[-1].strip() == "to begin all the same: --anyway"
    assert refused.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_anyway_begins_it(tmp_path, monkeypatch, cpu):
    monkeypatch.setattr(refusal, "present", lambda wanted: cpu(GIB // 4))
    given = {"sets": QUICK, "epochs": 1, "live": False}
    with pytest.raises(DoesNotFit):
        diffrl.train("ddpo", "jpeg-compressibility", output=tmp_path / "no", **given)
    done = diffrl.train(
        "ddpo", "jpeg-compressibility", output=tmp_path / "run", anyway=True, **given
    )
    assert [line["epoch"] for line in done.metrics] == [0, 1]


def test_what_is_called_tiny_fits_into_the_room_it_is_promised(estimated, cpu):
    rows = refusal.PIXELS // 64**2
    sets = (
        f"train.sample_batch={rows}", f"train.micro_batch={rows // 2}", "sampler.steps=4",
        "model.size=64", f"train.decode_batch={rows}", f"train.trajectories={4 * rows}",
    )  # fmt: skip
    assert refusal.is_tiny(resolve("sdpo", ["pickscore"], "emoji", sets=sets))
    assert estimated("sdpo", "emoji", cpu(refusal.ROOM), sets=sets).plan().fits
    for more in (f"train.micro_batch={rows}", "train.trajectories=1000000", "sampler.steps=900"):
        kept = "train.trajectories=1024"  # of 900 steps
        larger = resolve("sdpo", ["pickscore"], "emoji", sets=(*sets, kept, more))
        assert not refusal.is_tiny(larger)


TRIED = ("train.sample_batch=0", "train.micro_batch=0", "train.decode_batch=0")


def test_batches_that_are_found_by_trying_are_planned_at_their_usual_size(estimated):
    usual = ("train.sample_batch=16", "train.micro_batch=8", "train.decode_batch=16")
    tried, given = (estimated("sdpo", "emoji", sets=sets).plan() for sets in (TRIED, usual))
    assert replace(tried, notes=()) == replace(given, notes=())
    (note,) = set(tried.notes) - set(given.notes)
    assert "train.sample_batch as 16, train.micro_batch as 8, train.decode_batch as 16" in note


@pytest.mark.parametrize(("kind", "refused"), [("cuda", False), ("cpu", True)])
def test_what_shrinks_by_itself_on_a_gpu_is_not_refused_there(kind, refused, estimated, cpu):
    estimate = estimated("sdpo", "emoji", cpu(GIB), sets=TRIED)
    estimate = replace(estimate, device=replace(estimate.device, kind=kind))
    plan = estimate.plan()
    memory = int(plan.bytes - 0.3 * plan.largest.bytes)
    estimate = replace(estimate, device=replace(estimate.device, memory=memory))
    assert not estimate.plan().fits
    fitting = refusal.finds_its_size(resolve("sdpo", ["pickscore"], "emoji", sets=TRIED), estimate)
    assert fitting is not refused
    given = resolve("sdpo", ["pickscore"], "emoji")
    assert not refusal.finds_its_size(given, estimate)


def test_sizes_that_are_not_known_refuse_nothing(monkeypatch, cpu):
    monkeypatch.setattr(refusal, "present", lambda wanted: cpu(1))
    settings = resolve("ddpo", ["pickscore"], "emoji", sets=("model.ref=nobody/nothing-at-all",))
    refusal.refuse_what_cannot_fit(settings, ("fox",))


@pytest.mark.parametrize(("local", "refused"), [("1", False), ("8", True)])
def test_processes_of_one_machine_share_its_memory(local, refused, estimated, monkeypatch, cpu):
    """Eight processes, on machines of their own or on one."""
    settings = resolve("ddpo", ["pickscore"], "emoji")
    alone = estimated("ddpo", "emoji", cpu(64 * GIB), processes=8).plan().bytes
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setattr(refusal, "suggestions", lambda estimate: ())
    monkeypatch.setattr(refusal, "present", lambda wanted: cpu(2 * alone))
    with pytest.raises(DoesNotFit) if refused else nullcontext():
        refusal.refuse_what_cannot_fit(settings, ("fox",))


def test_what_a_plan_finds_to_fit_is_not_refused(estimated, cpu, monkeypatch):
    """A probe may find that calls take little more than their tensors, and twice is assumed."""
    estimate = estimated("sdpo", "emoji", cpu(64 * GIB), sets=(large := "train.micro_batch=64",))
    least = replace(estimate, least=True, costs=estimate.counted).plan()
    place = cpu(int(1.02 * least.bytes))
    assumed = replace(estimate, device=place, costs=estimate.counted)
    assert assumed.plan().hopeless
    told = []

    def found(estimate):
        told.append(estimate)
        probe = Probe(estimate.shape, 0.1, 0.1, 0.1, 0.1, LIBRARIES, grown=0)
        return replace(estimate, measured=probe, costs=estimate.counted)

    monkeypatch.setattr(command, "_probed", found)
    monkeypatch.setattr(devices, "present", lambda wanted: place)
    monkeypatch.setattr(refusal, "present", lambda wanted: place)
    monkeypatch.setattr(refusal, "is_tiny", lambda settings: False)
    settings = resolve("sdpo", ["pickscore"], "emoji", sets=[large])
    assert command.planned(settings, command.Place()).fits and told
    refusal.refuse_what_cannot_fit(settings, ("fox",))

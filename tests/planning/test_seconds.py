"""Seconds of a plan, and what it says of them."""

from dataclasses import replace

import pytest

from diffrl.builtin.samplers import Ddim, Lcm
from diffrl.cli import plan as command
from diffrl.errors import OutOfMemory
from diffrl.planning import probe as probing
from diffrl.planning.counting import Counting, Shapes
from diffrl.planning.devices import GIB, Device
from diffrl.planning.probe import Probe, worth_it

SMALL = ("train.trajectories=4", "sampler.steps=2", "sampler.lengths=[]", "eval.images=4")


@pytest.fixture
def small(estimated, cpu):
    """Estimates of a small run for a CPU, or for another device."""

    def make(*sets, place=None, processes=1):
        return estimated("sdpo", "emoji", place or cpu(8 * GIB), processes, (*SMALL, *sets))

    return make


def probed(estimate, threads=1, cores=1, shape=None):
    shape = shape or estimate.shape
    found = Probe(shape, 0.1, 0.1, 0.1, 0.1, 0, 2**28, threads=threads, cores=cores)
    return replace(estimate, measured=found, costs=estimate.counted)


@pytest.mark.parametrize(
    ("threads", "cores", "slower"),
    [(2, 2, 2), (1, 2, 1), (4, 8, 1)],
    ids=["all cores", "a core each", "half of them"],
)
def test_processes_share_the_cores_of_a_cpu(threads, cores, slower, small):
    """Each has half the pictures; with all cores in the probe that takes as long as one alone."""
    one = small()
    alone = probed(one, threads, cores).plan()
    half = replace(one, processes=2, costs=one.counted)
    two = probed(half, threads, cores, one.shape).plan()
    for name in ("sampling", "updating"):
        (single,), (shared,) = ([p for p in m.phases if p.name == name] for m in (alone, two))
        steps = 0.1 * one.epochs[0].commits * (name == "updating")  # as many in each process
        wanted = slower * ((single.seconds - steps) / 2 + steps)
        assert shared.seconds == pytest.approx(wanted)


def test_a_rate_that_is_given_of_a_cpu_is_shared_too(small):
    place = Device("a CPU", "cpu", 64 * GIB, 0.1)
    one, two = (small(place=place, processes=n).plan().phases[0].seconds for n in (1, 2))
    assert two == pytest.approx(one)
    gpu = replace(place, kind="cuda")
    one, two = (small(place=gpu, processes=n).plan().phases[0].seconds for n in (1, 2))
    assert two == pytest.approx(one / 2)


def evaluating(estimate, **chosen):
    """Operations of an evaluation, from the costs of an estimate."""
    settings = estimate.settings
    settings = replace(settings, eval=settings.eval.model_copy(update=chosen))
    return replace(estimate, settings=settings, costs=estimate.counted).plan().phases[-1].tflop


def test_an_evaluation_predicts_once_what_it_need_not_ask_twice(small):
    """In fp32 on a CPU; merged adapters round otherwise, and are asked again."""
    more = []
    for sets in ((), ("speed.merge=true",)):
        one = small(*sets)
        many, few = (evaluating(one, shown=n, steps=(2,)) for n in (4, 1))
        more.append(many - few)
    assert more[1] == pytest.approx(2 * more[0])


def test_evaluations_that_begin_alike_share_their_first_step(small):
    estimate = small()

    def each(*steps):
        """Operations of a picture."""
        several, few = (evaluating(estimate, steps=steps, images=n) for n in (8, 4))
        return several - few

    one, two, both = each(1), each(2), each(1, 2)
    prediction = two - one
    assert prediction > 0 and both == pytest.approx(one + two - prediction)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "wanted"),
    [
        (Ddim(), {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}, 1),
        (Ddim(), {"_class_name": "DDIMScheduler", "timestep_spacing": "leading"}, 4),
        (Ddim(), {"_class_name": "PNDMScheduler", "timestep_spacing": "leading"}, 4),
        (Ddim(), {"_class_name": "EulerDiscreteScheduler"}, 4),
        (Ddim(), {"_class_name": "LCMScheduler"}, 4),
        (Lcm(), {"_class_name": "PNDMScheduler", "timestep_spacing": "leading"}, 1),
    ],
)
def test_beginnings_are_those_of_the_sampler(sampler, scheduler, wanted, small):
    settings = small().settings
    settings = replace(settings, recipe=settings.recipe.but(sampler=sampler))
    assert settings.eval.steps == (1, 2, 4, 8)
    shape = Shapes(4, 1, 1, 1, None, scheduler)
    assert Counting(settings, shape, ["a fox"]).beginnings() == wanted


def test_merged_adapters_hold_copies_of_the_weights_that_they_are_added_to(small):
    usual, merged = (small(*sets).plan().phases for sets in ((), ("speed.merge=true",)))
    for name, held in (("sampling", True), ("updating", False), ("evaluating", True)):
        one, two = (next(p for p in each if p.name == name) for each in (usual, merged))
        assert (two.bytes > one.bytes) is held


def test_a_gpu_is_said_to_wait_where_calls_are_small(estimated, small):
    few, many = (
        estimated("sdpo", "emoji", sets=(f"train.micro_batch={n}", "train.sample_batch=32")).plan()
        for n in (2, 16)
    )
    said = "seconds are a lower bound: with 4 rows a call a GPU waits for its next kernel"
    assert said in few.notes and said not in many.notes
    recorded = estimated("sdpo", "emoji", sets=("train.micro_batch=2", "speed.graphs=true"))
    assert said not in recorded.plan().notes
    assert any("one by one" in note for note in probed(recorded).plan().notes)


def test_what_memory_ends_in_is_counted_and_said(small, monkeypatch):
    def ends(*given):
        raise OutOfMemory("no memory")

    monkeypatch.setattr(probing, "probe", ends)
    estimate = small()
    made = command._probed(estimate).plan()
    assert any(note.startswith("memory ended in trying the networks") for note in made.notes)
    assert replace(made, notes=()) == replace(estimate.plan(), notes=())


def test_calls_are_tried_where_they_have_room_alone(small):
    estimate = small()
    costs, shape = estimate.counted, estimate.shape
    assert worth_it(costs, shape) is not None
    assert worth_it(costs, shape, room=0) is None

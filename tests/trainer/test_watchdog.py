"""What the watchdog sees, and what a run does about it."""

import json
import shutil
import sys
from dataclasses import replace

import pytest
import torch

import diffrl
from diffrl.errors import Diverged, SettingsError
from diffrl.hookspecs import hookimpl
from diffrl.registry import registry
from diffrl.scoring import ScoredBy
from diffrl.settings import WatchdogSettings
from diffrl.settings.resolve import resolve
from diffrl.trainer import checkpoint, guard
from diffrl.trainer.evaluate import Evaluation
from diffrl.trainer.watchdog import Sighting, Watchdog, hardest

RULED = (("grad_norm", "warn"), ("sharpness", "stop"))

HELD = ScoredBy("held", lambda images, text: images.mean((1, 2, 3)))


def evaluation(held=50.0, diversity=20.0, sharpness=8.0, spread=2.0):
    """Of four pictures, drawn in one number of steps."""
    scores = {"picture/diversity/4-step": diversity, "picture/sharpness/4-step": sharpness}
    each = {"eval/held/4-step": held + spread * torch.tensor([-1.0, 1.0, -1.0, 1.0])}
    return Evaluation(scores, each, ("a",) * 4, torch.zeros(1, 1, 3, 2, 2))


def seen(dog, *evaluations, moved=None):
    """Return the rules that the last of some evaluations breaks."""
    found = []
    for one in evaluations:
        found = dog.on_evaluation(one, [HELD], moved or {})
    return [s.rule for s in found]


@pytest.fixture
def dog():
    return Watchdog(WatchdogSettings())


def test_nothing_is_said_of_what_stays(dog):
    assert seen(dog, evaluation(), evaluation(49.5, 15.0, 12.0)) == []
    assert dog.unharmed


@pytest.mark.parametrize(
    ("later", "rule"),
    [
        (evaluation(held=48.9), "held_out"),
        (evaluation(diversity=9.9), "diversity"),
        (evaluation(sharpness=2.6), "sharpness"),
        (evaluation(sharpness=24.1), "sharpness"),
    ],
)
def test_a_rule_is_broken(dog, later, rule):
    assert seen(dog, evaluation(), later) == [rule]
    assert not dog.unharmed


def test_a_fall_is_from_the_best_since_training_began(dog):
    assert seen(dog, evaluation(50.0), evaluation(60.0)) == []
    assert seen(dog, evaluation(58.9)) == ["held_out"]
    assert dog.memory["best:held"] == 60.0


def test_evaluations_in_other_numbers_of_steps_are_not_compared(dog):
    assert seen(dog, evaluation(60.0), evaluation(60.0)) == []
    other = evaluation(20.0, 5.0, 30.0)
    each = {name.replace("4-step", "3-step"): found for name, found in other.each.items()}
    assert each.keys() != other.each.keys()
    assert seen(dog, replace(other, each=each)) == []  # all would have fallen
    assert dog.memory["best:held"] == 20.0


def test_less_is_better_where_a_reward_says_so():
    reward, dog = ScoredBy("held", HELD.score, higher_is_better=False), Watchdog(WatchdogSettings())
    dog.on_evaluation(evaluation(50.0), [reward], {})
    assert dog.on_evaluation(evaluation(40.0), [reward], {}) == []
    (broken,) = dog.on_evaluation(evaluation(50.0), [reward], {})
    assert "is 50.00, 5.00 standard deviations worse than its best, 40.00" in broken.message


def test_a_limit_on_the_kl_is_kept_where_one_is_set():
    moved = {"kl/1-step": 0.01, "kl/4-step": 0.3}
    assert seen(Watchdog(WatchdogSettings()), evaluation(), moved=moved) == []
    assert seen(Watchdog(WatchdogSettings(kl=0.5)), evaluation(), moved=moved) == []
    assert seen(Watchdog(WatchdogSettings(kl=0.2)), evaluation(), moved=moved) == ["kl"]


def test_patience_is_for_evaluations_in_a_row():
    dog = Watchdog(WatchdogSettings(patience=2))
    low, fine = evaluation(held=40.0), evaluation()
    assert seen(dog, fine, low) == [] and not dog.unharmed
    assert seen(dog, fine, low) == []
    assert seen(dog, low) == ["held_out"]


def test_a_gradient_is_compared_with_the_median_of_earlier_ones(dog):
    for norm in (1.0, 1.2, 0.8, 1.0):
        assert dog.on_gradient(norm, 4) == []
    assert dog.on_gradient(100.0, 4) == []  # too few to compare with
    assert dog.on_gradient(19.0, 4) == []
    (broken,) = dog.on_gradient(23.0, 4)
    assert (broken.rule, broken.measured) == ("grad_norm", 23.0)
    assert broken.limit == pytest.approx(20 * (1.0 + 1.2) / 2)
    for _ in range(60):
        dog.on_gradient(1.0, 4)
    assert len([k for k in dog.memory if k.startswith("norm:")]) == 50


def test_gradients_of_longer_epochs_are_compared_among_themselves(dog):
    """Losses that add up over steps have as much larger ones."""
    for _ in range(6):
        assert dog.on_gradient(1.0, 2) == dog.on_gradient(50.0, 50) == []
    (broken,) = dog.on_gradient(50.0, 2)
    assert broken.limit == pytest.approx(20.0)


def test_what_pictures_were_at_first_is_remembered_without_a_limit_too():
    dog = Watchdog(WatchdogSettings(action="warn", diversity=None))
    dog.on_evaluation(evaluation(diversity=20.0), [HELD], {})
    later = Watchdog(WatchdogSettings(action="warn", diversity=0.5), dog.memory)
    found = later.on_evaluation(evaluation(diversity=9.0), [HELD], {})
    assert [one.rule for one in found] == ["diversity"]


def test_single_rules_have_actions_of_their_own():
    settings = WatchdogSettings(action="warn", rules=("diversity=stop", "sharpness=off"))
    dog = Watchdog(settings)
    dog.on_evaluation(evaluation(), [HELD], {})
    found = dog.on_evaluation(evaluation(held=40.0, diversity=1.0, sharpness=99.0), [HELD], {})
    assert {s.rule: s.action for s in found} == {"held_out": "warn", "diversity": "stop"}
    assert hardest(found) == "stop"
    assert hardest([]) == ""


def test_a_stopped_run_is_told_by_the_rule_that_stopped_it():
    warns, stops = (Sighting(n, f"{n} is 3", 3.0, 2.0, a) for n, a in RULED)
    said = str(guard._stopping([stops], ("kl=off", "sharpness=stop"), None))
    assert "sharpness is 3" in said and "grad_norm" not in said
    assert """--set 'watchdog.rules=["kl=off", "sharpness=warn"]'""" in said
    softer = resolve("sdpo", ["pickscore"], sets=['watchdog.rules=["kl=off", "sharpness=warn"]'])
    assert Watchdog(softer.watchdog).settings.action_of("sharpness") == "warn"
    assert "--set watchdog.action=warn" in str(guard._stopping([warns], ("kl=off",), 4))
    both = str(guard._stopping([warns, stops], ("sharpness=stop",), None))
    assert "grad_norm is 3; sharpness is 3" in both
    assert both.endswith("""--set 'watchdog.rules=["sharpness=warn"]' --set watchdog.action=warn""")


def test_rules_that_do_not_exist_are_refused():
    said = r"watchdog.rules = \['held=stop'\]: string should match"
    with pytest.raises(SettingsError, match=said):
        resolve("sdpo", ["pickscore"], sets=['watchdog.rules=["held=stop"]'])


REWARDS = '''
def bright(images, prompts):
    """What is trained on."""
    return images.mean((1, 2, 3))


def dark(images, prompts):
    """What is only watched, and suffers."""
    return 1 - images.mean((1, 2, 3))
'''


@pytest.fixture(scope="module")
def hacked(tiny_model, tmp_path_factory):
    """Returns a run that is driven to brightness, and is to keep dark; and what stopped it."""
    home, done = tmp_path_factory.mktemp("hacked"), {}
    (home / "tastes.py").write_text(REWARDS)
    sets = [
        f"model.ref={tiny_model}", "train.trajectories=32", "train.sample_batch=32",
        "eval.images=16", "eval.shown=4", "eval.steps=[2]", "eval.every=1", "eval.watch=[]",
        "sampler.steps=2", "update_scheduler.skip_last=0", "optimizer.lr=5e-3", "loss.clip=0.02",
        "checkpoint.every=100", "train.track=[]",
    ]  # fmt: skip

    def train(name, *more):
        if name not in done:
            stopped = None
            try:
                diffrl.train(
                    "sdpo",
                    "bright=tastes:bright",
                    sets=[*sets, *more],
                    watch=["dark=tastes:dark"],
                    epochs=20,
                    output=home / name,
                    live=False,
                )
            except Diverged as error:
                stopped = str(error)
            done[name] = (diffrl.Run(home / name), stopped)
        return done[name]

    train.home = home
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(home))
        yield train
    sys.modules.pop("tastes", None)


def dark(run):
    return [m["eval/dark/2-step"] for m in run.metrics if "eval/dark/2-step" in m]


def notices(run):
    path = run.folder / "notices.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_hacked_run_ends_near_its_best_held_out_score(hacked):
    """Without the watchdog it does not; with it the harm is within the limit, and told."""
    alone, _ = hacked("alone", "watchdog.action=off")
    scores = dark(alone)
    assert notices(alone) == [] and not any("watchdog" in k for m in alone.metrics for k in m)
    assert max(scores) - scores[-1] > 0.7 * _width(alone)  # it is hacked
    guarded, stopped = hacked("guarded", "watchdog.action=rollback")
    assert "the watchdog stopped the run: dark" in stopped
    kept = dark(guarded)
    assert max(kept) - kept[-1] <= 0.5 * _width(guarded) + 1e-6
    told = notices(guarded)
    assert {n["rule"] for n in told} == {"held_out"}
    assert [n["action"].split()[0] for n in told] == ["rollback", "rollback", "stop"]
    assert f"--resume {guarded.folder}" in stopped
    watch = checkpoint.read(guarded.checkpoints[-1])["watch"]
    assert (watch["rollbacks"], watch["slow"]) == (2, 0.25)
    assert any(m.get("watchdog/rollbacks") for m in guarded.metrics)
    last = guarded.checkpoints[-1]
    assert int(last.name) == told[-1]["back_to"] == guarded.metrics[-1]["epoch"]


def _width(run):
    """Return the limit's unit: the spread over pictures before training."""
    state = checkpoint.read(run.checkpoints[-1])["watch"]
    if "spread:dark" in state:
        return state["spread:dark"]
    content = json.loads((run.folder / "evaluations" / "00000.json").read_text())
    return float(torch.tensor(content["scores"]["eval/dark/2-step"]).std(correction=0))


def test_a_warning_changes_nothing_but_is_told(hacked):
    (alone, _), (warned, stopped) = hacked("alone", "watchdog.action=off"), hacked("warned")
    assert stopped is None
    assert dark(alone) == dark(warned)
    assert {n["action"] for n in notices(warned)} == {"warn"}
    assert warned.metrics[-1]["watchdog/broken"] >= 1


def test_slowing_down_lowers_the_learning_rate(hacked):
    run, _ = hacked("slow", "watchdog.action=slow")
    first = next(n["epoch"] for n in notices(run))
    rates = {m["epoch"]: m["lr"] for m in run.metrics if "lr" in m}
    decay = run.settings.optimizer.lr_decay
    assert rates[first + 1] == pytest.approx(rates[first] * 0.5 * decay)


def test_what_the_watchdog_remembers_is_in_the_checkpoint(hacked):
    """Interrupted after its first rollback and resumed, a run ends as one that was not."""
    whole, _ = hacked("guarded", "watchdog.action=rollback")
    cut, stopped = hacked("cut", "watchdog.action=rollback", "watchdog.rollbacks=1")
    assert stopped
    with pytest.raises(Diverged):
        diffrl.resume(cut.folder, sets=["watchdog.rollbacks=2"], live=False)
    told = [(n["source"], n["action"].split()[0]) for n in notices(cut)]
    way = ["rollback", "stop", "rollback", "stop"]
    assert [action for source, action in told if source == "watchdog"] == way
    assert [t for t in told if t[0] != "watchdog"] == [("run", "noted")]  # of other settings
    assert _untimed(cut) == _untimed(whole)
    states = [checkpoint.read(run.checkpoints[-1])["trained"] for run in (whole, cut)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Deletes:
    """Deletes a run's checkpoints after every epoch, as somebody may who needs room."""

    def __init__(self, folder):
        self.folder = folder

    @hookimpl
    def diffrl_update_done(self, event):
        for path in (self.folder / "checkpoints").glob("[0-9]*"):
            shutil.rmtree(path)


def test_without_its_good_checkpoint_a_run_stops_where_it_is(hacked):
    deletes = Deletes(hacked.home / "gone")
    registry().register(deletes)
    try:
        run, stopped = hacked("gone", "watchdog.action=rollback")
    finally:
        registry().unregister(deletes)
    assert "the watchdog stopped the run: dark" in stopped and "back at epoch" not in stopped
    assert [n["action"] for n in notices(run)] == ["stop"]
    assert [int(p.name) for p in run.checkpoints] == [run.metrics[-1]["epoch"]]


def _untimed(run):
    left_out = ("second", "samples")  # what was sampled in vain counts, too
    return [{k: v for k, v in m.items() if not k.startswith(left_out)} for m in run.metrics]

"""`diffrl plan`: what it prints, and how it exits."""

import json
import re
import shlex
from pathlib import Path

import pytest

from diffrl.cli import main
from diffrl.planning.plan import Plan

EMOJI = ("--algo", "sdpo", "--reward", "pickscore")


@pytest.fixture
def plan(capsys, monkeypatch):
    """Runs the command; returns its exit code, what it printed and its errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*argv):
        with pytest.raises(SystemExit) as stopped:
            main(["plan", *argv])
        return stopped.value.code, *capsys.readouterr()

    return run


def test_a_run_that_fits_exits_with_0_and_says_what_decides(plan):
    code, out, _ = plan(*EMOJI, "--gpu", "t4")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("sdpo on bundled:pipeline, reward pickscore, fp32: 286,720 weights")
    assert sum("← decides" in line for line in lines) == 1
    assert any(line.startswith("fits: it needs ") and "T4 has 14.5 GiB" in line for line in lines)
    assert "not counted, but for their files: animal-accuracy" in lines


@pytest.mark.slow
def test_a_run_that_does_not_fit_exits_with_1_and_says_what_would(plan):
    code, out, _ = plan(*EMOJI, "--memory", "1GiB", "--set", "train.micro_batch=64")
    assert code == 1
    assert "does not fit: it needs " in out
    (first, *_) = [line for line in out.splitlines() if line.startswith("this fits: ")]
    sets = first.removeprefix("this fits: ").split(" (")[0].split()
    again, out, _ = plan(*EMOJI, "--memory", "1GiB", "--set", "train.micro_batch=64", *sets)
    assert (again, "this fits" in out) == (0, False)


@pytest.mark.slow
def test_the_plan_in_the_docs_is_what_the_command_prints(plan):
    page = Path(__file__).resolve().parents[2] / "docs" / "plan.md"
    shown = re.search(r"```\n\$ diffrl plan (.*)\n([^`]*)```", page.read_text("utf-8"))
    assert shown
    code, out, _ = plan(*shlex.split(shown[1]))
    assert code == 1
    assert [line.rstrip() for line in out.splitlines()] == shown[2].splitlines()


@pytest.mark.slow
def test_low_memory_is_planned_as_the_docs_say(plan):
    page = Path(__file__).resolve().parents[2] / "docs" / "speed-settings.md"
    said = re.search(r"without it, (\S+) GiB with it, and (\S+) GiB with", page.read_text("utf-8"))
    words = ("--algo", "sdpo", "--reward", "pickscore", "--preset", "sd-turbo", "--gpu", "A100-80")
    low = (*words, "--set", "speed.low_memory=true")
    for sets, wanted in (((), said[1]), (("--set", "rewards.pickscore.precision=fp16"), said[2])):
        code, out, _ = plan(*low, *sets)
        assert (code, f"fits: it needs {wanted} GiB" in out) == (0, True)
    assert float(said[2]) * 2**30 < 8e9


def test_json_holds_the_plan(plan):
    code, out, _ = plan(*EMOJI, "--memory", "24GiB", "--tflops", "100", "--json")
    said = json.loads(out)
    made = Plan.from_json(said)
    assert (code, said["fits"], made.fits) == (0, True, True)
    assert {phase.name for phase in made.phases} >= {"sampling", "scoring", "updating"}
    assert said["epoch_seconds"] == pytest.approx(sum(p.seconds for p in made.phases[:-1]))
    assert json.loads(json.dumps(made.as_json())) == said


def test_without_a_rate_there_is_no_time(plan):
    _, out, _ = plan(*EMOJI, "--memory", "24GiB")
    assert "an epoch takes" not in out
    assert "speed: not known" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--gpu", "H300"), "--gpu 'H300': not in the table. Did you mean H200 or H100?"),
        (("--memory", "much"), "--memory 'much': expected a size such as 24GiB or 24GB"),
        (("--gpu", "T4", "--memory", "24GiB"), "--gpu and --memory: give one of them"),
        (("--tflops", "0"), "--tflops 0: expected a number above 0"),
        (("--gpu", "T4", "--tflops", "nan"), "--tflops nan: expected a number above 0"),
        (("--device", "cuda:99"), "model.device = 'cuda:99': this machine has no such device"),
        (("--set", "model.size=62"), "model.size = 62: expected a multiple of 4, as 64 is"),
        (("--reward", "nomodule:fn"), "reward nomodule:fn: cannot import nomodule"),
        (("--reward-checkpoint", "pickscore=./none"), "rewards.pickscore.checkpoint = './none'"),
        (("--model", "nobody/nothing-at-all"), "cannot plan the model 'nobody/nothing-at-all'"),
        (("--prompts", "/no/such/file"), "no prompts at '/no/such/file'"),
        (("--set", "anchor=rnd"), "reward_predictor.anchor"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_input_exits_with_2_and_says_why(plan, argv, said):
    code, out, errors = plan(*EMOJI, *argv)
    assert (code, out) == (2, "")
    assert said in errors
    assert "Traceback" not in errors


def test_a_device_that_is_here_is_measured(plan):
    sets = ("--set", "train.sample_batch=4", "--set", "train.micro_batch=1", "--device", "cpu")
    _, out, _ = plan(*EMOJI, *sets, "--set", "train.decode_batch=2", "--json")
    probed = Plan.from_json(json.loads(out))
    assert probed.speed.startswith("measured")
    assert probed.epoch_seconds is not None
    assert probed.held[0].name == "libraries"
    _, out, _ = plan(*EMOJI, *sets, "--no-probe", "--json")
    assert json.loads(out)["epoch_seconds"] is None

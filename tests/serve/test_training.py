"""Runs whose reward fails, in their own process or in another, and how they go on."""

import json
import sys
from pathlib import Path

import pytest
import torch

import diffrl
from diffrl.cli import main
from diffrl.errors import RewardError
from diffrl.testing.tiny import save_tiny_pipeline
from diffrl.trainer import checkpoint

HERE = Path(__file__).parent
EPOCHS = 4


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    return [
        f"model.ref={model}", "train.trajectories=8", "train.sample_batch=4", "train.micro_batch=3",
        "eval.images=2", "eval.shown=2", "eval.steps=[1]", "eval.every=0", "eval.watch=[]",
        "checkpoint.every=100", "optimizer.lr=1e-2", "sampler.lengths=[4, 2]",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def scorers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("COUNT_IN", str(tmp_path))
    yield
    sys.modules.pop("scorers", None)


def train(reward, sets, folder, **more):
    return diffrl.train(
        "sdpo", f"taste={reward}", sets=sets, epochs=EPOCHS, output=folder, live=False, **more
    )


@pytest.fixture(scope="session")
def whole(sets, tmp_path_factory):
    """The run as it is when nothing fails."""
    sys.path.insert(0, str(HERE))
    try:
        return train("scorers:bright", sets, tmp_path_factory.mktemp("whole") / "run")
    finally:
        sys.path.remove(str(HERE))


def assert_same(run, whole):
    """Weights and metrics are those of the run that nothing happened to."""
    states = [checkpoint.read(r.folder / "checkpoints" / str(EPOCHS)) for r in (run, whole)]
    for name, weight in states[1]["trained"].items():
        assert torch.equal(states[0]["trained"][name], weight), name
    assert len(run.metrics) == len(whole.metrics) == EPOCHS + 1
    for one, other in zip(run.metrics, whole.metrics, strict=True):
        timing = [k for k in other if "second" in k]
        drop = {"dropped", *timing}
        assert {k: v for k, v in one.items() if k not in drop} == {
            k: v for k, v in other.items() if k not in drop
        }


def test_a_reward_without_an_answer_saves_the_run_which_goes_on(sets, whole, tmp_path):
    with pytest.raises(RewardError) as stopped:
        train("scorers:not_a_number", sets, tmp_path / "run")
    said = str(stopped.value)
    assert "reward 'taste' gave 1 score(s) that are not finite, first nan for prompt" in said
    assert "at denoising step" in said
    assert f"epoch 1 is saved; continue with: diffrl train --resume {tmp_path / 'run'}" in said
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
    assert_same(diffrl.resume(tmp_path / "run", live=False), whole)


def test_an_evaluation_that_failed_is_made_up(sets, whole, tmp_path):
    with pytest.raises(RewardError, match=r"too late.*epoch 4 is saved"):
        train("scorers:tired", sets, tmp_path / "run")
    run = diffrl.resume(tmp_path / "run", live=False)
    assert_same(run, whole)
    assert (tmp_path / "run" / "images" / "before-after.png").exists()
    assert_same(diffrl.resume(tmp_path / "run", live=False), whole)  # nothing is pending any more


def test_the_command_line_exits_with_3(sets, tmp_path, capsys):
    words = ["train", "--algo", "sdpo", "--reward", "taste=scorers:raises", "--epochs", "1"]
    words += ["--output", str(tmp_path / "run"), *(w for s in sets for w in ("--set", s))]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 3
    err = capsys.readouterr().err
    assert "reward 'taste' failed for prompt" in err and "RuntimeError" in err
    assert "no epoch was finished; continue with" in err
    assert "Traceback" not in err


def test_bad_trajectories_are_dropped_on_request_and_counted(sets, tmp_path):
    run = train("scorers:not_a_number", [*sets, "train.bad_scores=drop"], tmp_path / "run")
    dropped = [line.get("dropped") for line in run.metrics[1:]]
    assert sum(dropped) == 2  # a picture, and its twin
    assert all(line["samples"] == 8 * line["epoch"] for line in run.metrics)
    assert all(json.dumps(line) and line["grad_norm"] > 0 for line in run.metrics[1:])


def test_nothing_left_is_an_error(sets, tmp_path):
    with pytest.raises(RewardError, match="failed for prompt"):
        train("scorers:raises", [*sets, "train.bad_scores=drop"], tmp_path / "run")


def test_a_served_reward_trains_as_the_function_itself_does(serve, sets, whole, tmp_path):
    """Pictures travel in whole 8-bit levels, so scores differ a little."""
    run = train(serve("bright").url, sets, tmp_path / "run")
    for line, other in zip(run.metrics, whole.metrics, strict=True):
        for key in (k for k in other if k.startswith(("reward/taste", "eval/taste"))):
            assert line[key] == pytest.approx(other[key], abs=0.02)
    assert run.settings.rewards[0].reward.url.startswith("http://127.0.0.1:")


def test_a_server_that_dies_costs_nothing(serve, sets, tmp_path):
    calm = train(serve("bright").url, sets, tmp_path / "calm")
    quick = ["rewards.taste.attempts=2", "rewards.taste.backoff=0.05"]
    server = serve("dies")
    with pytest.raises(RewardError, match="after 2 attempts") as stopped:
        train(server.url, [*sets, *quick], tmp_path / "run")
    assert "epoch 1 is saved" in str(stopped.value)
    serve("bright")
    assert_same(diffrl.resume(tmp_path / "run", live=False), calm)


@pytest.mark.parametrize("function", ["too_few", "raises"])
def test_a_server_that_lies_or_fails_stops_the_run(serve, sets, tmp_path, function):
    quick = ["rewards.taste.attempts=1"]
    with pytest.raises(RewardError, match=r"reward server http://127.*answered 50[02]"):
        train(serve(function).url, [*sets, *quick], tmp_path / "run")


def test_a_dead_server_is_refused_before_anything_loads(sets, free_port, tmp_path, capsys):
    words = ["train", "--algo", "sdpo", "--reward", f"http://127.0.0.1:{free_port}"]
    words += ["--output", str(tmp_path / "run"), *(w for s in sets for w in ("--set", s))]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_scoring_beside_sampling_changes_nothing(sets, whole, tmp_path):
    run = train("scorers:bright", [*sets, "train.overlap=on"], tmp_path / "run")
    assert_same(run, whole)

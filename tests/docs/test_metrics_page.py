"""The glossary names every key that a run writes, and no key that none writes."""

import re
from pathlib import Path

import pytest

import diffrl

ROOT = Path(__file__).resolve().parents[2]
HOLES = {"<name>": r"[a-z0-9-]+", "<metric>": r"\w+", "<k>": r"\d+", "<s>": r"\d+"}


@pytest.fixture(scope="module")
def metrics(tmp_path_factory) -> list[dict[str, float]]:
    """What a short run with random weights writes, its evaluations included."""
    from diffrl.testing.tiny import save_tiny_clip, save_tiny_pipeline

    model = save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    clip = save_tiny_clip(tmp_path_factory.mktemp("clip"))
    run = diffrl.train(
        algo="sdpo",
        reward="pickscore",
        epochs=1,
        output=tmp_path_factory.mktemp("runs") / "glossary",
        sets=[
            f"model.ref={model}",
            f"rewards.pickscore.checkpoint={clip}",
            "train.trajectories=4",
            "sampler.steps=3",
            "train.bad_scores=drop",
            "speed.recompute=on",
            "eval.steps=[1]",
            "eval.images=46",
            "eval.watch=[]",
        ],
        live=False,
    )
    return run.metrics


def documented(page: str) -> list[str]:
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    return [m.group(1) for line in lines if (m := re.match(r"\| `([\w<>/-]+)` \|", line))]


def pattern(name: str) -> str:
    for hole, expression in HOLES.items():
        name = name.replace(hole, expression)
    return name


def test_each_metric_of_a_run_is_documented(metrics):
    patterns = [pattern(name) for name in documented("metrics.md")]
    keys = {key for epoch in metrics for key in epoch}
    unknown = [k for k in sorted(keys) if not any(re.fullmatch(p, k) for p in patterns)]
    assert keys and unknown == []


def test_each_documented_metric_is_written_by_a_run(metrics):
    keys = {key for epoch in metrics for key in epoch}
    names = documented("metrics.md")
    idle = [n for n in names if not any(re.fullmatch(pattern(n), k) for k in keys)]
    assert names and idle == []


def test_the_figures_of_the_sdpo_loss_are_documented_on_its_page(metrics):
    keys = {k for epoch in metrics for k in epoch if k.startswith("loss/")} - {"loss/value"}
    assert keys == {n for n in documented("algorithms/sdpo.md") if n.startswith("loss/")}

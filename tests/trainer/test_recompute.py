"""Log-probs recomputed before updates: in fp32 the same, in half precision those to take."""

import pytest
import torch

import diffrl
from diffrl.settings.resolve import resolve
from diffrl.trainer import checkpoint

ALGORITHMS = ["ddpo", "rebel", "prdp", "sdpo"]
"""Whose losses are about ratios."""


@pytest.fixture
def trained(tiny_sets, tmp_path):
    def train(name, algo, *sets):
        given = [*tiny_sets, "eval.every=0", "eval.images=2", "train.micro_batch=1", *sets]
        return diffrl.train(
            algo, "pickscore", sets=given, epochs=2, output=tmp_path / name, live=False
        )

    return train


def same_figures(one, other):
    """Return whether two runs' metrics are near each other, but for seconds and the gap."""
    for mine, its in zip(one.metrics[1:], other.metrics[1:], strict=True):
        names = [k for k in mine if not k.startswith(("seconds", "samples_per", "log_prob_gap"))]
        assert [its[k] for k in names] == pytest.approx(
            [mine[k] for k in names], rel=1e-3, abs=1e-5
        )
    return True


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_in_fp32_nothing_else_is_trained(algo, trained):
    usual, other = trained("usual", algo), trained("other", algo, "speed.recompute=on")
    assert same_figures(usual, other)
    assert "log_prob_gap/sampling" not in usual.metrics[-1]
    assert all(line["log_prob_gap/sampling"] < 1e-5 for line in other.metrics[1:])
    one, two = (checkpoint.read(run.checkpoints[-1])["trained"] for run in (usual, other))
    moved = [name for name in one if "lora_B" in name]  # from zero
    apart, far = (
        torch.cat([w.flatten() for w in v]).norm()
        for v in ([two[name] - one[name] for name in moved], [one[name] for name in moved])
    )
    assert apart < 1e-2 * far


@pytest.mark.parametrize("algo", ["ddpo", "sdpo"])
def test_ratios_start_at_one_where_sampling_computes_otherwise(algo, trained):
    """Merged adapters in bf16 round far beyond the clip range."""
    means = ["model.precision=bf16", "speed.merge=true", "optimizer.lr=1e-2"]
    usual = trained("usual", algo, *means, "speed.recompute=off").metrics[-1]
    other = trained("other", algo, *means).metrics[-1]  # auto
    assert usual["log_prob_gap/max"] > 1e-3
    assert other["log_prob_gap/max"] == 0
    assert other["log_prob_gap/sampling"] > 1e-3


def test_each_step_is_recomputed_once_however_often_it_is_trained_on(trained, monkeypatch):
    from diffrl.policy import UNetPolicy

    calls, plain = [], UNetPolicy.log_prob

    def counted(policy, batch, weights="live"):
        calls.append(torch.is_grad_enabled())
        return plain(policy, batch, weights)

    monkeypatch.setattr(UNetPolicy, "log_prob", counted)
    trained("run", "ddpo", "update_scheduler.inner_epochs=3", "speed.recompute=on")
    assert calls.count(True) == 3 * calls.count(False) > 0


def test_losses_without_ratios_recompute_nothing():
    on = ["speed.recompute=on"]
    assert not resolve("d3po", ["pickscore"], sets=on).recomputes
    assert resolve("sdpo", ["pickscore"], sets=on).recomputes
    half = ["model.precision=bf16"]
    assert resolve("sdpo", ["pickscore"], sets=half).recomputes
    assert not resolve("sdpo", ["pickscore"]).recomputes
    assert not resolve("sdpo", ["pickscore"], sets=[*half, "speed.recompute=off"]).recomputes

"""Log-probs recomputed before updates: in fp32 the same, in half precision those to take."""

import re

import pytest
import torch

import diffrl
from diffrl.errors import Interrupted
from diffrl.policy import UNetPolicy
from diffrl.rollouts import first_uses
from diffrl.settings.resolve import resolve
from diffrl.speed.fitting import Fitting
from diffrl.trainer import checkpoint, checks, loop, recompute
from diffrl.types import Minibatch

ALGORITHMS = ["ddpo", "rebel", "prdp", "sdpo"]
"""Whose losses are about ratios."""


@pytest.fixture
def trained(tiny_sets, tmp_path):
    def train(name, algo, *sets):
        given = [s for s in tiny_sets if "trajectories" not in s]
        given += ["train.trajectories=16", "train.micro_batch=3"]  # uneven pieces
        given += ["eval.every=0", "eval.images=2", "optimizer.eps=1e-3", *sets]
        return diffrl.train(
            algo, "pickscore", sets=given, epochs=2, output=tmp_path / name, live=False
        )

    return train


def assert_same_figures(one, other):
    """Two runs' metrics are near each other, but for seconds and the gap."""
    for mine, its in zip(one.metrics[1:], other.metrics[1:], strict=True):
        names = [k for k in mine if not k.startswith(("seconds", "samples_per", "log_prob_gap"))]
        assert [its[k] for k in names] == pytest.approx(
            [mine[k] for k in names], rel=1e-3, abs=1e-5
        )


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_in_fp32_nothing_else_is_trained(algo, trained):
    usual, other = trained("usual", algo), trained("other", algo, "speed.recompute=on")
    assert_same_figures(usual, other)
    assert "log_prob_gap/sampling" not in usual.metrics[-1]
    assert all(line["log_prob_gap/sampling"] < 1e-5 for line in other.metrics[1:])
    one, two = (checkpoint.read(run.checkpoints[-1])["trained"] for run in (usual, other))
    moved = [name for name in one if "lora_B" in name]  # from zero
    apart, far = (
        torch.cat([w.flatten() for w in v]).norm()
        for v in ([two[name] - one[name] for name in moved], [one[name] for name in moved])
    )
    assert apart < 1e-2 * far


@pytest.fixture
def gaps(monkeypatch):
    """Hears of the |log-ratios| of every call of an epoch's first update."""
    heard, plain = [], loop.log_prob_gap

    def hear(seen, batch):
        heard.append(plain(seen, batch))
        return heard[-1]

    monkeypatch.setattr(loop, "log_prob_gap", hear)
    return heard


@pytest.mark.parametrize(
    ("algo", "more"), [("ddpo", ()), ("sdpo", ()), ("sdpo", ("speed.low_memory=true",))]
)
def test_ratios_start_at_one_where_sampling_computes_otherwise(algo, more, trained, gaps):
    """Merged adapters in bf16 round far beyond the clip range; every piece's ratios are 1."""
    means = ["model.precision=bf16", "speed.merge=true", "optimizer.lr=1e-1", *more]
    run = trained("usual", algo, *means, "speed.recompute=off")
    assert max(float(one.max()) for one in gaps) > 1e-3
    assert len(gaps) % 2 == 0 and len(gaps) > 2 * 2  # pieces of two epochs
    for line, half in zip(run.metrics[1:], (slice(len(gaps) // 2), slice(len(gaps) // 2, None)),
                          strict=True):  # fmt: skip
        assert line["log_prob_gap/max"] == max(float(one.max()) for one in gaps[half])
    gaps.clear()
    run = trained("other", algo, *means)  # auto
    assert len(gaps) > 2 * 2  # pieces of two epochs
    assert max(float(one.max()) for one in gaps) == 0
    assert run.metrics[-1]["log_prob_gap/sampling"] > 1e-3


def test_far_from_sampling_is_told():
    settings = resolve("ddpo", ["pickscore"], sets=["model.precision=bf16"])
    assert (
        checks.of_epoch(settings, 1, {"updates": 1, "log_prob_gap/sampling": checks.SAMPLING}) == []
    )
    (notice,) = checks.of_epoch(
        settings, 1, {"updates": 1, "log_prob_gap/sampling": 2 * checks.SAMPLING}
    )
    assert (notice.rule, notice.measured) == ("sampling_gap", 2 * checks.SAMPLING)
    assert "the pictures are those of another model" in notice.message


@pytest.mark.parametrize(
    ("algo", "sets", "said"),
    [
        ("d3po", ["speed.merge=true", "model.precision=bf16"], "more than 0.01; precision, batch"),
        ("d3po", [], "or the sampler tells other log-probs than it drew by"),
        ("ddpo", ["speed.recompute=off"], "a tenth of the clip range 0.0016; .*recompute=on makes"),
        ("rebel", ["speed.recompute=on"], "more than 0.01; .* move it between two calls"),
    ],
)
def test_what_may_have_moved_log_probs_is_told(algo, sets, said):
    settings = resolve(algo, ["pickscore"], sets=sets)
    (notice,) = checks.of_epoch(settings, 1, {"updates": 1, "log_prob_gap/max": 0.05})
    assert notice.rule == "log_prob_gap" and re.search(said, notice.message), notice.message


def test_each_step_is_recomputed_once_however_often_it_is_trained_on(trained, monkeypatch):
    """In the calls of the first pass; recomputing has no backward pass."""
    calls, now, plain = {"recompute": 0, "update": 0}, [], UNetPolicy.log_prob

    def counted(policy, batch, weights="live"):
        calls[now[-1]] += 1
        return plain(policy, batch, weights)

    def within(name, work):
        def run(*given):
            now.append(name)
            return work(*given)

        return run

    monkeypatch.setattr(UNetPolicy, "log_prob", counted)
    monkeypatch.setattr(loop, "recompute", within("recompute", recompute.recompute))
    monkeypatch.setattr(loop, "update", within("update", loop.update))
    trained("run", "ddpo", "update_scheduler.inner_epochs=3", "speed.recompute=on")
    assert calls["update"] == 3 * calls["recompute"] > 0


def test_recomputing_ends_where_a_signal_asks_for_it(trained, monkeypatch):
    asked, plain = [], recompute.recompute

    def interrupted(recipe, policy, ranks, *rest):
        ranks.asked = lambda: 15 if UNetPolicy.log_prob.calls else 0
        asked.append(True)
        return plain(recipe, policy, ranks, *rest)

    def counted(policy, batch, weights="live"):
        counted.calls += 1
        return log_prob(policy, batch, weights)

    counted.calls, log_prob = 0, UNetPolicy.log_prob
    monkeypatch.setattr(UNetPolicy, "log_prob", counted)
    monkeypatch.setattr(loop, "recompute", interrupted)
    with pytest.raises(Interrupted, match="no epoch was finished; continue with"):
        trained("run", "ddpo", "update_scheduler.rows_per_update=4", "speed.recompute=on")
    assert asked == [True] and 0 < counted.calls <= 2  # of the first minibatch alone


def test_the_first_use_of_a_row_at_a_step_is_found():
    rows = torch.tensor([[0, 1], [0, 2], [3, 0]])
    one = Minibatch(rows, torch.tensor([[0], [0], [1]]))
    two = Minibatch(rows[2:], torch.tensor([[1]]))
    three = Minibatch(rows[1:2], torch.tensor([[1]]))
    (a, new), (b, later) = first_uses([one, two, three], rows=4, steps=2)
    assert (a, b) == (one, three)  # nothing is new in the second
    assert new[..., 0].tolist() == [[True, True], [False, True], [True, True]]
    assert later[..., 0].tolist() == [[False, True]]


def test_what_pieces_give_is_put_where_each_by_itself_would_put_it():
    """Also where memory ended in a piece, which is then made in two."""
    known, micro = torch.randn(6, 4), Fitting("train.micro_batch", 3)
    rows, steps = torch.randint(6, (8, 2)), torch.randint(4, (8, 2))
    ((whole, new),) = first_uses([Minibatch(rows, steps)], 6, 4)
    fresh, replaced, found = known.clone(), torch.zeros_like(known, dtype=torch.bool), []

    def attempt(at):
        if at.start == 3 and micro.cuts == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        values, mask = torch.randn_like(known[rows[at]][..., :2]), new[at]
        many, each = torch.broadcast_tensors(whole.rows[at, :, None], whole.steps[at, None, :])
        fresh[many[mask], each[mask]] = values[mask]
        replaced[many[mask], each[mask]] = True
        found.append((many[mask], each[mask], mask.flatten(), values.flatten()))

    assert len(list(micro.over(8, attempt))) == 4 and micro.cuts == 1
    put, where = recompute.put(known, found)
    assert torch.equal(put, fresh) and torch.equal(where, replaced) and 0 < int(where.sum()) < 24
    unchanged, nowhere = recompute.put(known, [])
    assert torch.equal(unchanged, known) and not nowhere.any()


def test_losses_without_ratios_recompute_nothing():
    on = ["speed.recompute=on"]
    assert not resolve("d3po", ["pickscore"], sets=on).recomputes
    assert resolve("sdpo", ["pickscore"], sets=on).recomputes
    half = ["model.precision=bf16"]
    assert resolve("sdpo", ["pickscore"], sets=half).recomputes
    assert not resolve("sdpo", ["pickscore"]).recomputes
    assert not resolve("sdpo", ["pickscore"], sets=[*half, "speed.recompute=off"]).recomputes


def test_log_probs_of_other_weights_are_left_alone(monkeypatch):
    on = resolve("ddpo", ["pickscore"], sets=["speed.recompute=on"])
    assert on.recomputes
    monkeypatch.setattr(type(on.recipe.sampler), "live", False)
    assert not on.recomputes


def test_steps_that_are_not_trained_are_not_compared(trained, monkeypatch):
    """One without noise has no log-prob, and is nan; recomputing leaves it alone."""
    plain = recompute.recompute

    def with_a_hole(recipe, policy, ranks, tally, *rest):
        tally.found.rollout.path.log_prob[:, -1] = torch.nan
        plain(recipe, policy, ranks, tally, *rest)

    monkeypatch.setattr(loop, "recompute", with_a_hole)
    run = trained("run", "sdpo", "speed.recompute=on", "update_scheduler.skip_last=1")
    assert all(line["log_prob_gap/sampling"] < 1e-5 for line in run.metrics[1:])
    assert not (run.folder / "notices.jsonl").exists()

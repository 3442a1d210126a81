"""What holds for every loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffrl.kernels import log_density
from diffrl.stages import Loss
from diffrl.testing.contracts.component import ComponentContract
from diffrl.testing.contracts.reward_predictor import full_rollout
from diffrl.testing.contracts.same import untouched, weights_of
from diffrl.testing.toy import ToyJudge, ToyPolicy
from diffrl.types import Advantages, Batch, LossOut, Minibatch, at_step, gather


class LossContract(ComponentContract):
    """Tests of a loss; the subclass supplies `component`.

    The batch holds the final three of four steps, and only what the loss says it needs. `old` and
    `base` differ from `live`, as they do in a run.
    """

    @pytest.fixture
    def policy(self) -> ToyPolicy:
        """A toy policy whose three sets of weights differ."""
        return fresh_policy()

    @pytest.fixture
    def batch(self, component: Loss, policy: ToyPolicy, judge: ToyJudge) -> Batch:
        """Four tuples from an on-policy rollout."""
        return _only(component.needs, full_batch(component.arity, policy, judge))

    @pytest.fixture
    def out(self, component: Loss, policy: ToyPolicy, batch: Batch) -> LossOut:
        """The loss of that batch."""
        return component(policy, batch)

    def test_value_is_one_finite_number(self, out: LossOut) -> None:
        """It can be minimised."""
        assert out.value.shape == ()
        assert out.value.isfinite()
        assert out.value.requires_grad

    def test_same_batch_same_loss(self, component: Loss, batch: Batch, out: LossOut) -> None:
        """All randomness comes from `policy.noise`, which is seeded."""
        assert torch.equal(component(fresh_policy(), batch).value, out.value)

    def test_metrics_are_finite_numbers_without_graph(self, out: LossOut) -> None:
        """Metrics are logged and must not hold activations."""
        assert "value" not in out.metrics, "'value' is the loss itself"
        for name, said in out.metrics.items():
            metric = torch.as_tensor(said)
            assert metric.numel() == 1 and metric.isfinite().all(), name
            assert not metric.requires_grad, f"{name} holds a graph; detach it"

    def test_gradient_reaches_live_weights_only(self, policy: ToyPolicy, out: LossOut) -> None:
        """`old` and `base` are never trained."""
        out.value.backward()
        grads = [p.grad for p in policy.parameters() if p.grad is not None]
        assert any(bool(grad.abs().max() > 0) for grad in grads), "no gradient at all"
        for name in ("old", "base"):
            assert all(p.grad is None for p in policy.nets[name].parameters())

    def test_one_small_step_keeps_the_gradient_finite(
        self, component: Loss, policy: ToyPolicy, batch: Batch
    ) -> None:
        """Off-policy by one optimizer step, nothing overflows."""
        if component.on_policy:
            pytest.skip("right only on-policy")
        for _ in range(2):
            component(policy, batch).value.backward()
            for p in policy.parameters():
                assert p.grad is not None and p.grad.isfinite().all()
                with torch.no_grad():
                    p -= 1e-3 * p.grad / (p.grad.norm() + 1e-12)
                p.grad = None

    def test_batch_and_weights_are_left_alone(
        self, component: Loss, policy: ToyPolicy, batch: Batch
    ) -> None:
        """A loss only reads; noise comes from `policy.noise`."""
        with untouched(batch=batch, weights=weights_of(policy)):
            component(policy, batch).value.backward()

    def test_order_within_a_tuple_does_not_matter(
        self, component: Loss, batch: Batch, out: LossOut
    ) -> None:
        """A pairwise loss is unchanged when each pair is swapped."""
        if component.arity == 1:
            pytest.skip("compares no rows")
        flip = torch.arange(component.arity).flip(0)
        swapped = component(fresh_policy(), _rearranged(batch, at=flip, axis=1))
        assert torch.allclose(swapped.value, out.value, atol=1e-5)

    def test_larger_tuples_are_compared_as_a_whole(
        self, component: Loss, policy: ToyPolicy, judge: ToyJudge
    ) -> None:
        """`any_arity` promises it: every row of a whole group counts, whatever its place."""
        if not component.any_arity:
            pytest.skip("takes no larger tuples")
        larger = component.arity + 2
        batch = _only(component.needs, full_batch(larger, policy, judge))
        value = component(policy, batch).value
        assert value.shape == () and value.isfinite()
        changed = replace(batch, advantage=batch.advantage.clone())
        changed.advantage[:, -1] += 1.0
        assert not torch.equal(component(fresh_policy(), changed).value, value), (
            "the last row of a larger tuple does not count"
        )

    def test_loss_is_a_mean_over_tuples(self, component: Loss, batch: Batch, out: LossOut) -> None:
        """The trainer cuts a batch into micro-batches: the loss must not notice."""
        policy = fresh_policy()
        halves = [_rearranged(batch, at=torch.arange(i, i + 2), axis=0) for i in (0, 2)]
        parts = torch.stack([component(policy, half).value for half in halves])
        assert torch.allclose(parts.mean(), out.value, atol=1e-5)

    def test_one_tuple_is_enough(self, component: Loss, batch: Batch) -> None:
        """The last micro-batch may have no more."""
        for i in range(4):
            one = _rearranged(batch, at=torch.tensor([i]), axis=0)
            value = component(fresh_policy(), one).value
            assert value.shape == () and value.isfinite() and value.requires_grad

    def test_loss_is_a_mean_over_steps(self, component: Loss, batch: Batch, out: LossOut) -> None:
        """Schedulers hand over any number of steps, unless it says `whole_trajectories`."""
        if component.whole_trajectories:
            pytest.skip("adds up the steps of a row")
        if "grad" in component.needs:
            pytest.skip("goes through its steps one after the other, to the picture")
        policy = fresh_policy()
        before = policy.rng.get_state()
        parts = [component(policy, at_step(batch, j)).value for j in range(batch.t.shape[2])]
        if not torch.equal(policy.rng.get_state(), before):
            pytest.skip("draws noise, which is other noise for each step")
        assert torch.allclose(torch.stack(parts).mean(), out.value, atol=1e-5), (
            "the mean over its steps, one by one, is another value; if it adds up the steps of a "
            "row, set whole_trajectories = True"
        )

    def test_at_unchanged_weights_only_the_log_ratio_counts(
        self, component: Loss, policy: ToyPolicy, batch: Batch
    ) -> None:
        """There the log-ratio is 0 and the ratio 1, whichever transition was drawn."""
        if "log_prob" not in component.needs:
            pytest.skip("reads no log_prob")
        policy = ToyPolicy()
        values = [component(policy, _redrawn(policy, batch, seed)).value for seed in (1, 2)]
        assert torch.allclose(values[0], values[1], atol=1e-4), (
            "the loss depends on more than log-ratios; if it means to, as REINFORCE's does, "
            "override this test"
        )

    def test_log_ratio_limit_is_positive(self, component: Loss) -> None:
        """A tenth of it is what a log-prob gap is compared with."""
        assert component.log_ratio_limit is None or component.log_ratio_limit > 0


def fresh_policy() -> ToyPolicy:
    """Return a toy policy whose `live`, `old` and `base` weights differ."""
    policy, rng = ToyPolicy(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for which in ("old", "base"):
            for p in policy.nets[which].parameters():
                p += 1e-3 * torch.randn(p.shape, generator=rng)
    return policy


def full_batch(arity: int, policy: ToyPolicy, judge: ToyJudge) -> Batch:
    """Return four tuples of the final three of four steps, with everything a loss may read."""
    rollout = full_rollout(policy, steps=4, group=arity)
    value = torch.randn(len(rollout), 4, generator=torch.Generator().manual_seed(2))
    last = torch.full((len(rollout),), 3)
    advantages = Advantages(value, judge.grad(rollout.x0, rollout.prompts, last)[1])
    rows = torch.arange(len(rollout)).reshape(4, arity)
    return gather(rollout, advantages, Minibatch(rows, torch.arange(1, 4).expand(4, 3)))


def _only(needs: frozenset[str], batch: Batch) -> Batch:
    if "log_prob" not in needs:
        batch = replace(batch, log_prob=None)
    if not needs & {"log_prob", "path"}:
        batch = replace(batch, kernel=None, x=None, x_next=None)
    return replace(
        batch,
        grad=batch.grad if "grad" in needs else None,
        labels=batch.labels if "labels" in needs else None,
    )


def _rearranged(batch: Batch, at: torch.Tensor, axis: int) -> Batch:
    """Return the batch with other tuples (axis 0) or another order in each tuple (axis 1)."""
    tuples = {"step"} if axis else set()
    tensors = {
        name: value.index_select(axis, at)
        for name, value in vars(batch).items()
        if isinstance(value, torch.Tensor) and name not in tuples
    }
    return replace(batch, **tensors)


@torch.no_grad()
def _redrawn(policy: ToyPolicy, batch: Batch, seed: int) -> Batch:
    assert batch.kernel is not None and batch.x is not None
    out = policy.predict(batch.x, batch.t, batch.cond)
    step = batch.kernel.transition(out, batch.t, batch.x)
    drawn = policy.normal(batch.t.shape, torch.Generator().manual_seed(seed))
    x_next = step.mean + step.std * drawn
    return replace(batch, x_next=x_next, log_prob=log_density(x_next, step))

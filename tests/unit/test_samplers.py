"""The samplers on the toy world."""

import pytest
import torch

from diffrl.builtin.samplers import Ddim, Ode
from diffrl.testing.toy import TEXT, ToyPolicy
from diffrl.types import Advantages, Minibatch, gather


def draw(sampler, seed=0, **policy):
    return sampler(ToyPolicy(**policy), TEXT, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_rollout_has_both_states_of_every_step(steps):
    rollout = draw(Ddim(steps=steps, group=2))
    n = 2 * len(TEXT)
    assert rollout.path.x.shape == (n, steps + 1, 2, 2, 2)
    assert rollout.path.x0_hat.shape == (n, steps, 2, 2, 2)
    assert rollout.path.log_prob.shape == (n, steps) and rollout.path.log_prob.isfinite().all()
    assert torch.equal(rollout.x0, rollout.path.x[:, -1])
    assert rollout.times.shape == (steps,) and not rollout.x0.requires_grad


def test_rows_of_a_group_are_neighbours_and_share_noise_only_where_asked():
    shared, own = (draw(Ddim(steps=3, group=2, share_noise=s)) for s in (True, False))
    assert shared.prompts.text[:4] == (TEXT[0], TEXT[0], TEXT[1], TEXT[1])
    start = shared.path.x[:, 0].unflatten(0, (-1, 2))
    assert torch.equal(start[:, 0], start[:, 1])
    assert not torch.equal(start[0], start[1])
    after = shared.path.x[:, 1].unflatten(0, (-1, 2))
    assert not torch.equal(after[:, 0], after[:, 1])
    start = own.path.x[:, 0].unflatten(0, (-1, 2))
    assert not torch.equal(start[:, 0], start[:, 1])


@pytest.mark.parametrize("sampler", [Ddim(steps=5, group=2), Ode(steps=5, group=2)])
def test_the_same_seed_gives_the_same_rollout(sampler):
    assert torch.equal(draw(sampler).x0, draw(sampler).x0)
    assert not torch.equal(draw(sampler).x0, draw(sampler, seed=1).x0)


def test_log_ratio_of_unchanged_weights_is_zero():
    policy = ToyPolicy()
    rollout = Ddim(steps=6)(policy, TEXT, torch.Generator().manual_seed(0))
    steps = torch.arange(6).expand(4, -1)
    batch = gather(
        rollout, Advantages(torch.zeros(4, 6)), Minibatch(torch.arange(4)[:, None], steps)
    )
    got = policy.log_prob(batch)
    torch.testing.assert_close(got, batch.log_prob, rtol=0, atol=2e-6)


def test_half_precision_noise_is_stored_in_single_precision():
    class Half(ToyPolicy):
        def normal(self, shape, rng):
            return super().normal(shape, rng).half()

    for sampler in (Ddim(steps=2), Ode(steps=2)):
        rollout = sampler(Half(), TEXT, torch.Generator())
        assert rollout.x0.dtype == torch.float32


def test_ode_equals_ddim_without_noise_and_gives_only_x0():
    ode, ddim = draw(Ode(steps=5)), draw(Ddim(steps=5, eta=0))
    assert torch.equal(ode.x0, ddim.x0)
    assert ode.path is None and Ode().gives == {"x0"}


def test_steps_are_bounded():
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match="steps"):
            Ddim(steps=wrong)


def test_mixed_lengths_take_turns_and_evaluations_have_their_own():
    sampler = Ddim(steps=50, lengths=(2, 4, 8), group=2)
    assert [sampler.for_epoch(n).steps for n in range(1, 8)] == [2, 4, 8, 2, 4, 8, 2]
    assert all(sampler.for_epoch(n).lengths == () for n in (1, 2, 3))
    assert sampler.for_evaluation(6, 1.0) == Ddim(steps=6, group=1)
    assert Ddim(steps=5).for_epoch(3) == Ddim(steps=5)

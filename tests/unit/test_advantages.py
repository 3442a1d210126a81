"""Returns and their statistics, apart from the published numbers in `tests/parity`."""

import pytest
import torch

from diffrl.builtin.advantages import Returns
from diffrl.types import Memory, Prompts, Rewards


def prompts(*text):
    return Prompts(text, torch.arange(len(text)), torch.zeros(len(text), 1))


def run(estimator, value, text, memory=None):
    got, memory = estimator(Rewards(value), prompts(*text), memory or Memory())
    return got.value, memory


def test_returns_are_discounted_sums_of_what_follows():
    reward = torch.tensor([[1.0, 2.0, 4.0]])
    got, _ = run(Returns(gamma=0.5, per="none"), reward, "a")
    assert got.tolist() == [[3.0, 4.0, 4.0]]


@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_no_discount_leaves_rewards_as_they_are(gamma):
    reward = torch.randn(3, 4)
    assert torch.equal(run(Returns(gamma=gamma, per="none"), reward, "abc")[0], reward)


def test_inputs_are_not_changed():
    reward, grad = torch.randn(4, 5), torch.randn(4, 2, 2, 2)
    before, held = reward.clone(), torch.randn(9, 5)
    memory = Memory({("a", 5): held})
    kept = held.clone()
    got, after = Returns()(Rewards(reward, grad), prompts(*"aabb"), memory)
    assert torch.equal(reward, before) and torch.equal(held, kept)
    assert list(memory.history) == [("a", 5)] and len(after.history["a", 5]) == 11
    assert got.grad is grad


def test_memory_does_not_share_storage_with_the_rewards():
    reward = torch.ones(2, 3)
    _, memory = run(Returns(gamma=0), reward, "aa")
    reward.zero_()
    assert memory.history["a", 3].eq(1).all()


def test_a_prompt_with_few_returns_is_compared_with_the_whole_epoch():
    reward = torch.randn(20, 3, dtype=torch.float64)
    text = "a" * 16 + "b" * 4
    got, _ = run(Returns(gamma=0), reward, text)
    own, every = reward[:16], reward
    expected = torch.cat([z(own, own), z(reward[16:], every)])
    torch.testing.assert_close(got, expected)


def test_warm_up_ends_when_the_present_returns_fill_the_minimum():
    estimator, memory = Returns(gamma=0, buffer=4, min_count=4), None
    first, second = torch.randn(2, 3, 2, dtype=torch.float64)
    got, memory = run(estimator, first, "aab", memory)
    torch.testing.assert_close(got, z(first, first))
    got, memory = run(estimator, second, "aab", memory)
    buffer = torch.cat([first[:2], second[:2]])
    torch.testing.assert_close(got[:2], z(second[:2], buffer))
    torch.testing.assert_close(got[2:], z(second[2:], second))


def test_of_more_arrivals_than_the_buffer_only_the_last_remain():
    reward = torch.randn(40, 2, dtype=torch.float64)
    got, memory = run(Returns(gamma=0), reward, "a" * 40)
    assert torch.equal(memory.history["a", 2], reward[-32:])
    torch.testing.assert_close(got, z(reward, reward[-32:]))


def test_zero_variance_gives_zero():
    got, _ = run(Returns(gamma=0, min_count=2), torch.full((4, 3), 7.0), "aabb")
    assert got.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_rewards_is_kept_whatever_memory_holds(dtype):
    memory = Memory({("a", 2): torch.randn(20, 2, dtype=torch.float64)})
    got, after = run(Returns(), torch.randn(2, 2, dtype=dtype), "aa", memory)
    assert got.dtype == after.history["a", 2].dtype == dtype


def test_numbers_of_steps_have_memories_of_their_own():
    _, memory = run(Returns(), torch.randn(2, 3), "aa")
    _, memory = run(Returns(), torch.randn(2, 5), "aa", memory)
    assert {key: len(kept) for key, kept in memory.history.items()} == {("a", 3): 2, ("a", 5): 2}


def test_per_step_and_per_batch_need_no_memory():
    reward = torch.randn(6, 3, dtype=torch.float64)
    step, memory = run(Returns(gamma=0, per="step"), reward, "abcdef")
    batch, _ = run(Returns(gamma=0, per="batch"), reward, "abcdef")
    torch.testing.assert_close(step, z(reward, reward))
    whole = (reward - reward.mean()) / (reward.std(correction=0) + 1e-8)
    torch.testing.assert_close(batch, whole, rtol=1e-14, atol=0)
    assert not memory.history


def test_per_prompt_pools_the_steps():
    reward = torch.randn(4, 3, dtype=torch.float64)
    got, _ = run(Returns(gamma=0, per="prompt", min_count=2, epsilon=1e-20), reward, "aabb")
    for rows in (reward[:2], reward[2:]):
        expected = (rows - rows.mean()) / rows.std(correction=0)
        at = 0 if rows is not None and torch.equal(rows, reward[:2]) else 2
        torch.testing.assert_close(got[at : at + 2], expected)


def test_a_minimum_above_the_buffer_is_a_problem():
    assert Returns().problems() == []
    assert "min_count" in Returns(buffer=4).problems()[0]


def z(value, usual):
    return (value - usual.mean(0)) / (usual.std(0, correction=0) + 1e-6)


@pytest.mark.parametrize("per", ["prompt-step", "prompt", "group", "step", "batch"])
@pytest.mark.parametrize("value", [121.3, 5.24, 0.1])
def test_rewards_that_are_all_alike_have_no_advantage(per, value):
    """Their mean may be a rounding error off, which a deviation of zero would make large."""
    reward = torch.full((48, 1), value)
    got, _ = run(Returns(per=per, gamma=1.0), reward, "a" * 24 + "b" * 24)
    assert torch.equal(got, torch.zeros(48, 1))

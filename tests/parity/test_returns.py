"""The advantage estimator against the published returns and per-prompt statistics."""

import pytest
import torch
from pack import unpack

from diffrl.builtin.advantages import Returns
from diffrl.types import Memory, Prompts, Rewards, last_step

DENSE = {c["name"]: c for c in unpack("sdpo_dense_rewards_returns")["cases"]}
GAMMAS = [(n, g) for n, c in DENSE.items() for g in c.get("returns_by_gamma", ())]
TRACKERS = unpack("stat_trackers")


@pytest.mark.parametrize(("name", "gamma"), GAMMAS)
def test_returns_equal_the_published_ones(name, gamma):
    case = DENSE[name]
    reward = torch.cat([torch.tensor(case[f"dense_rewards{i}"]) for i in (1, 2)])
    estimator = Returns(gamma=float(gamma), per="none")
    got, _ = estimator(Rewards(reward), prompts(["a"] * len(reward)), Memory())
    close(got.value, case["returns_by_gamma"][gamma])


@pytest.mark.parametrize("case", TRACKERS["sdpo_per_step_prompt"], ids=lambda c: c["name"])
def test_advantages_per_prompt_and_step_equal_three_published_updates(case):
    dtype = getattr(torch, case["dtype"])
    estimator = Returns(gamma=0, buffer=case["buffer_size"], min_count=case["min_count"])
    memory = Memory()
    # fp32: mean of returns near 50 rounds at 4e-6 and is divided by deviations of order 1
    bound = {"rtol": 1e-9, "atol": 1e-11} if case["dtype"] == "float64" else {"atol": 2e-5}
    for update in case["updates"]:
        reward = torch.tensor(update["returns"], dtype=dtype)
        got, memory = estimator(Rewards(reward), prompts(update["prompts"]), memory)
        assert got.value.dtype == dtype
        close(got.value, update["advantages"], **bound)
        steps = reward.shape[1]
        for text, columns in update.get("buffers", {}).items():
            kept = memory.history[text, steps]
            assert len(kept) == update["buffer_lengths"][text][0]
            for k in range(steps):
                close(kept[:, k], columns[str(k)], rtol=0, atol=0)


@pytest.mark.parametrize("case", TRACKERS["ddpo_per_prompt"], ids=lambda c: c["name"])
def test_advantages_per_prompt_equal_three_published_updates_of_ddpo(case):
    estimator = Returns(
        gamma=1, per="prompt", buffer=case["buffer_size"], min_count=case["min_count"]
    )
    memory = Memory()
    for update in case["updates"]:
        reward = last_step(torch.tensor(update["rewards"]).double(), 3)
        got, memory = estimator(Rewards(reward), prompts(update["prompts"]), memory)
        for k in range(3):
            close(got.value[:, k], update["advantages"])


@pytest.mark.parametrize(
    "case",
    [c for c in TRACKERS["flow_grpo_group"] if not c["global_std"]],
    ids=lambda c: c["name"],
)
def test_advantages_per_group_equal_those_of_flow_grpo(case):
    reward = torch.tensor(case["rewards"]).double()
    number = {text: i for i, text in enumerate(dict.fromkeys(case["prompts"]))}
    group = torch.tensor([number[text] for text in case["prompts"]])
    together = Prompts(tuple(case["prompts"]), group, torch.zeros(len(group), 1))
    got, memory = Returns(gamma=0, per="group")(Rewards(reward), together, Memory())
    close(got.value, case["advantages"])
    assert not memory.history


def prompts(text):
    return Prompts(tuple(text), torch.arange(len(text)), torch.zeros(len(text), 1))


def close(got, expected, rtol=1e-9, atol=1e-11):
    got, expected = got.double(), torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)

"""SDPO's dense reward against the published similarities, anchors and dense rewards."""

import pytest
import torch
from diffrl_sdpo.anchors import Anchors, by_similarity, similarities
from pack import unpack

from diffrl.kernels import Ddim
from diffrl.stages import Judge
from diffrl.types import Path, Prompts, Rollout

SIMILARITY = {c["name"]: c for c in unpack("sdpo_anchor_similarity")["cases"]}
TRAJECTORIES = {c["name"]: c for c in unpack("sdpo_pipeline_trajectories")["cases"]}
DENSE = {c["name"]: c for c in unpack("sdpo_dense_rewards_returns")["cases"]}
TOY = "toy_unet_T50_float64"
# dense case, its trajectory, and the clean predictions that it was made from
SOURCES = [
    ("random_T10", 1, SIMILARITY["random_T10"]),
    ("random_T10", 2, SIMILARITY["random_T10"]),
    ("T2", 1, SIMILARITY["T2"]),
    ("T2", 2, SIMILARITY["T2"]),
    ("endpoint_anchor_T12", 1, SIMILARITY["geodesic_like_T12_anchor_hits_endpoint"]),
    ("toy_unet_T50_pair", 1, TRAJECTORIES[TOY]),
    ("toy_unet_T50_pair", 2, TRAJECTORIES[f"{TOY}_second_trajectory_same_initial_noise"]),
    ("float16_similarities_T10", 1, SIMILARITY["float16_T10"]),
    ("float16_similarities_T10", 2, SIMILARITY["float16_T10"]),
]


@pytest.mark.parametrize(
    "case", [*SIMILARITY.values(), *TRAJECTORIES.values()], ids=lambda c: c["name"]
)
def test_similarities_and_anchor_equal_the_published_ones(case):
    half = "float16" in case.get("precision", "")
    x0_hat = torch.tensor(case["pred_x0"], dtype=torch.float16 if half else torch.float64)
    official = torch.as_tensor(case["anchor_steps"]).long()
    ends = torch.tensor([0, case["T"] - 1]).expand(len(x0_hat), -1)
    at = torch.stack([ends[:, 0], official, ends[:, 1]], 1)
    got = similarities(x0_hat, at)
    bound = {"atol": 1.5e-3} if half else {}  # fp16 sums: three roundings of 5e-4
    for q, name in enumerate(("sim_first", "sim_anchor", "sim_last")):
        close(got[:, q], case[name], **bound)
    if "sum_first_last" in case:
        close(got[:, 0] + got[:, 2], case["sum_first_last"], atol=3e-3 if half else 1e-11)
    for anchor, fine in zip(asked_anchors(x0_hat), case["acceptable_anchors"], strict=True):
        assert anchor in fine


@pytest.mark.parametrize(("case", "which"), [(c, i) for c in DENSE.values() for i in (1, 2)])
def test_dense_rewards_equal_the_published_ones(case, which):
    names = [f"sim_{s}{which}" for s in ("first", "anchor", "last")]
    similarity = torch.stack([torch.tensor(case[n]) for n in names], 1)
    score = torch.tensor(case[f"queried_rewards{which}"])
    anchor = torch.as_tensor(case[f"anchor_steps{which}"]).long()
    at = torch.stack([torch.zeros_like(anchor), anchor, torch.full_like(anchor, case["T"] - 1)], 1)
    # the published fp16 run sums and rounds the denominator in fp16: up to 5e-4
    bound = {"rtol": 1e-3} if "precision" in case else {}
    close(by_similarity(score, similarity, at), case[f"dense_rewards{which}"], **bound)


@pytest.mark.parametrize(("name", "which", "source"), SOURCES)
def test_the_component_turns_three_queries_into_the_published_dense_rewards(name, which, source):
    case = DENSE[name]
    x0_hat = torch.tensor(source["pred_x0"])
    score = torch.tensor(case[f"queried_rewards{which}"])
    last = x0_hat.shape[1] - 1
    official = torch.as_tensor(case[f"anchor_steps{which}"])

    def judge(x0, prompts, step):
        rows = [int(t) for t in prompts.text]
        assert torch.equal(x0, x0_hat[rows, step])
        slot = torch.where(step == 0, 0, torch.where(step == last, 2, 1))
        return score[rows, slot]

    got = Anchors()(rollout(x0_hat), Asked(judge)).value
    bound = {"rtol": 2e-3} if "precision" in case else {}
    # at an end the anchor's prescribed score is not the score of the same picture
    inner = (official > 0) & (official < last)
    assert inner.any() or name in ("T2", "endpoint_anchor_T12")
    close(got[inner], case[f"dense_rewards{which}"][inner.numpy()], **bound)
    for row in (~inner).nonzero().flatten().tolist():
        assert got[row, [0, -1]].tolist() == score[row, [0, 2]].tolist()


class Asked(Judge):
    """A judge that is a function."""

    def __init__(self, score):
        self.score = score

    def __call__(self, x0, prompts, step):
        return self.score(x0, prompts, step)


def asked_anchors(x0_hat):
    """Return the step of each row's anchor, as the judge is asked for it."""
    last, asked = x0_hat.shape[1] - 1, {}

    def judge(x0, prompts, step):
        for text, k in zip(prompts.text, step.tolist(), strict=True):
            asked.setdefault(int(text), set()).add(k)
        return torch.zeros(len(x0))

    Anchors()(rollout(x0_hat), Asked(judge))
    # an anchor at an end is not asked for again; step 0 wins that tie or rounding gives the last
    return [min(asked[row] - {0, last}, default=0) for row in sorted(asked)]


def rollout(x0_hat):
    n, steps = x0_hat.shape[:2]
    prompts = Prompts(tuple(map(str, range(n))), torch.arange(n), torch.zeros(n, 1))
    x = torch.cat([x0_hat, x0_hat[:, -1:]], 1)
    kernel = Ddim(torch.linspace(0.99, 0.01, 1000), steps)
    path = Path(kernel, torch.zeros(n, steps), x, x0_hat)
    return Rollout(prompts, torch.linspace(999, 19, steps), x[:, -1], path)


def close(got, expected, rtol=1e-9, atol=1e-11):
    got, expected = got.double(), torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)

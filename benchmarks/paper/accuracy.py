"""Tables II and III: how near predicted dense rewards come to those of every step."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffrl_sdpo import SDPO, Anchors
from diffrl_sdpo.anchors import similarities

from benchmarks.paper.experiments import REWARDS
from benchmarks.paper.verdicts import CONTRADICTED, REPRODUCED, UNCLEAR
from diffrl.evidence.intervals import difference
from diffrl.scoring import checked
from diffrl.settings.resolve import resolve
from diffrl.tensors import Float, Int, Tensor
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.session import Session, build
from diffrl.types import Prompts, Rollout

STEPS = 50
PIECE = 16
PREDICTORS = {
    "3 queries, adaptive anchor": Anchors(),
    "3 queries, random anchor": Anchors(anchor="random"),
    "3 queries, fixed anchor": Anchors(anchor="fixed"),
    "2 queries, similarity": Anchors(query="first-last"),
    "2 queries, interpolation": Anchors(query="first-last", spread="linear"),
    "1 query, copied": Anchors(query="last"),
}

TEST = "paired bootstrap over prompts"
ERRORS = "by prompt"
"""What standard errors are counted over."""

SAID = {"higher": REPRODUCED, "lower": CONTRADICTED, UNCLEAR: UNCLEAR}


class Remembered:
    """A judge that knows the score of every latent it will be asked for."""

    def __init__(self, x0_hat: Float[Tensor, "n T *latent"], score: Float[Tensor, "n T"]) -> None:
        flat = zip(x0_hat.flatten(0, 1), score.flatten(), strict=True)
        self._known = {_key(x0): value for x0, value in flat}

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return what is known."""
        return torch.stack([self._known[_key(one)] for one in x0])


def _key(x0: Tensor) -> bytes:
    return x0.contiguous().numpy().tobytes()


def measured(rollouts: int) -> tuple[dict[str, dict[str, dict[str, Any]]], float]:
    """Return, by reward and predictor, cosine, L1 and L2, at the bundled model's own weights.

    Of each predictor but the first, `claims` has the verdicts on the first being nearer. The second
    value is the mean of the least cosine of a step's clean prediction with the first,
    middle or last one's: how unlike each other the predictions of a trajectory are.
    """
    settings = resolve("sdpo", list(REWARDS), sets=["eval.watch=[]"])
    sampler = SDPO.sampler.model_copy(update={"steps": STEPS, "group": 1})
    exact: dict[str, list[Tensor]] = {reward: [] for reward in REWARDS}
    given = {reward: {name: [] for name in PREDICTORS} for reward in REWARDS}
    rng = torch.Generator().manual_seed(7)
    alike: list[Tensor] = []
    prompts: list[str] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        session = build(
            settings, accelerator("cpu", "fp32"), Path(folder), preflight(settings, None)
        )
        for start in range(0, rollouts, PIECE):
            text = [session.prompts[i % len(session.prompts)] for i in range(start, start + PIECE)]
            rollout = sampler(session.policy, text, rng)
            prompts += text
            alike.append(likeness(rollout))
            for reward, score in scored(session, rollout).items():
                exact[reward].append(score)
                assert rollout.path is not None and rollout.path.x0_hat is not None
                judge: Any = Remembered(rollout.path.x0_hat, score)
                for name, anchors in PREDICTORS.items():
                    given[reward][name].append(anchors(rollout, judge).value)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for reward, own in given.items():
        every = {n: apart(torch.cat(v), torch.cat(exact[reward])) for n, v in own.items()}
        ours = every[next(iter(PREDICTORS))]
        found[reward] = {
            name: {
                **near(one, prompts),
                **({} if one is ours else {"claims": claims(ours, one, prompts)}),
            }
            for name, one in every.items()
        }
    return found, float(torch.cat(alike).mean())


def likeness(rollout: Rollout) -> Float[Tensor, "n"]:
    """Return each trajectory's least cosine with its first, middle and last prediction."""
    assert rollout.path is not None and rollout.path.x0_hat is not None
    at = torch.tensor([0, (STEPS - 1) // 2, STEPS - 1]).expand(len(rollout), -1)
    return similarities(rollout.path.x0_hat, at).flatten(1).amin(1)


def scored(session: Session, rollout: Rollout) -> dict[str, Float[Tensor, "n T"]]:
    """Return what every reward gives every step's predicted picture; each is decoded once."""
    assert rollout.path is not None and rollout.path.x0_hat is not None
    found: dict[str, list[Tensor]] = {reward.name: [] for reward in session.rewards}
    for step in range(STEPS):
        images = session.decode(rollout.path.x0_hat[:, step])
        for reward in session.rewards:
            score = checked(reward, images, rollout.prompts.text)
            found[reward.name].append(score * reward.scale)
    return {name: torch.stack(columns, 1) for name, columns in found.items()}


@dataclass(frozen=True)
class Apart:
    """How far predicted rewards are from exact ones, for each trajectory.

    Args:
        cosine: of the rewards less their mean over steps; 0 where only a constant is predicted.
        l1: mean distance of the same, in standard deviations of the exact ones.
        l2: mean square of it.
    """

    cosine: Float[Tensor, "n"]
    l1: Float[Tensor, "n"]
    l2: Float[Tensor, "n"]


def apart(given: Float[Tensor, "n T"], exact: Float[Tensor, "n T"]) -> Apart:
    """Return how far predicted rewards are from exact ones."""
    a, b = (v - v.mean(1, keepdim=True) for v in (given, exact))
    distance = (a - b) / b.square().mean().sqrt()
    return Apart(
        torch.nn.functional.cosine_similarity(a, b, dim=1, eps=1e-8),
        distance.abs().mean(1),
        distance.square().mean(1),
    )


def near(one: Apart, prompts: Sequence[str]) -> dict[str, Any]:
    """Return means over trajectories; L2 is the root of its mean."""
    return {
        "cosine": float(one.cosine.mean()),
        "cosine_error": error(one.cosine, prompts),
        "l1": float(one.l1.mean()),
        "l2": float(one.l2.mean().sqrt()),
    }


def error(values: Float[Tensor, "n"], prompts: Sequence[str]) -> float:
    """Return the standard error of a mean whose values are alike within each prompt."""
    known = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    at = torch.tensor([known[prompt] for prompt in prompts])
    sums = torch.zeros(len(known)).index_add(0, at, values - values.mean())
    return float((sums.square().sum() * len(known) / (len(known) - 1)).sqrt() / len(values))


def claims(better: Apart, worse: Apart, prompts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return by measure the verdict on `better` being nearer, and by how much it is.

    Trajectories of one prompt, of `prompts`, are resampled together.
    """
    found = {}
    for measure, sign in (("cosine", 1), ("l1", -1), ("l2", -1)):
        low, high = (sign * getattr(one, measure) for one in (worse, better))
        change, said = difference(low.tolist(), high.tolist(), prompts)
        found[measure] = {"said": SAID[said], "low": change.low, "high": change.high}
    return found

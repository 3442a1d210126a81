"""The judge: decodes latents, scores the pictures with every reward, and keeps the books."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from diffrl.errors import RewardError
from diffrl.scoring import ScoredBy, checked, finite_or_nan
from diffrl.speed.fitting import Fitting
from diffrl.tensors import Float, Int, Tensor
from diffrl.types import Prompts

Decode = Callable[[Tensor], Tensor]


@dataclass
class Ledger:
    """Raw scores by reward and the denoising step that predicted each picture."""

    steps: list[Tensor] = field(default_factory=list)
    scores: dict[str, list[Tensor]] = field(default_factory=dict)

    def enter(self, name: str, score: Tensor) -> None:
        """Write down the scores of one batch of pictures."""
        self.scores.setdefault(name, []).append(score.detach().cpu())

    @property
    def queries(self) -> int:
        """How many pictures were scored."""
        return sum(len(s) for s in self.steps)

    def columns(self) -> tuple[Int[Tensor, "q"], Mapping[str, Float[Tensor, "q"]]]:
        """Return the step of each query, and per reward its scores; none if none was asked."""
        if not self.steps:
            return torch.zeros(0, dtype=torch.long), {}
        return torch.cat(self.steps), {n: torch.cat(s) for n, s in self.scores.items()}


class WeightedJudge:
    """The weighted sum of rewards on decoded latents; implements `diffrl.stages.Judge`.

    Args:
        decode: latents to pictures in [0, 1].
        rewards: what to score with.
        batch: how many latents are decoded and scored in one call.
        drop: whether a picture without a finite score scores nan, instead of ending the run.
    """

    def __init__(
        self,
        decode: Decode,
        rewards: Sequence[ScoredBy],
        batch: int | Fitting = 16,
        drop: bool = False,
    ) -> None:
        self._decode, self._rewards = decode, tuple(rewards)
        sized = isinstance(batch, Fitting)
        self._pieces = batch if sized else Fitting("train.decode_batch", batch)
        self._failures: dict[str, str] = {}
        self._drop = drop
        self._check = partial(finite_or_nan, failures=self._failures) if drop else checked
        self._ledger = Ledger()

    @property
    def why(self) -> str:
        """Why a picture had no score, as a reward said that failed; empty: none has."""
        return next(reversed(self._failures.values()), "")

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Return a score per row; `step` is the denoising step that predicted `x0`."""
        return self.each(x0, prompts, step).sum(1)

    def each(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b r"]:
        """Return the weighted score of each reward; their sum is what a call returns."""
        self._ledger.steps.append(step.detach().cpu())
        precise = torch.promote_types(x0.dtype, torch.float32)
        scores = x0.new_zeros(len(x0), len(self._rewards), dtype=precise)
        kept: list[Tensor] = []
        comparing = any(reward.groupwise for reward in self._rewards)

        def score(at: slice) -> Tensor:
            images = self._decode(x0[at])
            for column, reward in enumerate(self._rewards):
                if not reward.groupwise:
                    found = self._check(reward, images, prompts.text[at], step[at])
                    scores[at, column] = found.to(scores)
            return images

        with torch.no_grad():
            for images in self._pieces.over(len(x0), score):
                kept += [images] if comparing else []
            for column, reward in enumerate(self._rewards):
                if reward.groupwise:
                    found = self._compared(reward, torch.cat(kept), prompts, step)
                    scores[:, column] = found.to(scores)
        for column, reward in enumerate(self._rewards):
            self._ledger.enter(reward.name, scores[:, column])
        return scores * scores.new_tensor([reward.factor for reward in self._rewards])

    def _compared(
        self,
        reward: ScoredBy,
        images: Float[Tensor, "b 3 h w"],
        prompts: Prompts,
        step: Int[Tensor, "b"],
    ) -> Float[Tensor, "b"]:
        """Return the scores of a reward that sees all pictures of a group and step at once."""
        scores = images.new_zeros(len(images))
        kinds = torch.stack([prompts.group.cpu(), step.cpu()], 1)
        for kind in kinds.unique(dim=0):
            at = (kinds == kind).all(1).nonzero()[:, 0]
            text = [prompts.text[i] for i in at.tolist()]
            there = at.to(images.device)
            scores[there] = self._check(reward, images[there], text, step.cpu()[at]).to(scores)
        return scores

    def grad(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *latent"]]:
        """Return scores and their gradients; refused where a reward is not differentiable.

        A picture without a finite score or gradient scores nan, with a gradient of zero, where
        such pictures are left out.

        Raises:
            RewardError: naming the rewards that carry no gradient, or one that is not finite.
        """
        if blind := [r.name for r in self._rewards if not r.differentiable]:
            raise RewardError(f"no gradient from reward(s) {', '.join(blind)}: not differentiable")
        if comparing := [r.name for r in self._rewards if r.groupwise]:
            names = ", ".join(comparing)
            raise RewardError(f"no gradient from reward(s) {names}: they compare pictures")
        self._ledger.steps.append(step.detach().cpu())

        def differentiate(at: slice) -> tuple[list[Tensor], Tensor, Tensor]:
            leaf = x0[at].detach().requires_grad_()
            images = self._decode(leaf)
            scores = [self._check(r, images, prompts.text[at], step[at]) for r in self._rewards]
            weighted = [r.factor * s for r, s in zip(self._rewards, scores, strict=True)]
            total = torch.stack(weighted).sum(0)
            total, grad = self._gradient(total, leaf, prompts.text[at], step[at])
            precise = torch.promote_types(x0.dtype, torch.float32)
            return [s.detach() for s in scores], total.to(x0.device, precise), grad

        values, grads = [], []
        for scores, value, grad in self._pieces.over(len(x0), differentiate):
            for reward, score in zip(self._rewards, scores, strict=True):
                self._ledger.enter(reward.name, score)
            values.append(value)
            grads.append(grad)
        return torch.cat(values), torch.cat(grads)

    def _gradient(
        self,
        total: Float[Tensor, "b"],
        leaf: Float[Tensor, "b *latent"],
        text: Sequence[str],
        step: Int[Tensor, "b"],
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b *latent"]]:
        """Return scores without graph, and their gradients: finite, or as `drop` has it."""
        scored, value = total.isfinite(), total.detach()
        grad = torch.zeros_like(leaf)
        if bool(scored.any()):  # else rewards may have failed before there was a graph
            (grad,) = torch.autograd.grad(total.sum(), leaf)
        good = grad.flatten(1).isfinite().all(1)
        if not self._drop and not bool(good.all()):
            row = int((~good).nonzero()[0, 0])
            names = ", ".join(reward.name for reward in self._rewards)
            raise RewardError(
                f"the gradient of reward(s) {names} is not finite for prompt {text[row]!r} at "
                f"denoising step {int(step[row])}"
            )
        good = good & scored.to(good.device)
        wide = good.view(-1, *[1] * (grad.ndim - 1))
        return value.where(good.to(value.device), torch.nan), grad.where(wide, 0.0)

    def drain(self) -> Ledger:
        """Return the books since the last call, and begin anew."""
        ledger, self._ledger = self._ledger, Ledger()
        return ledger

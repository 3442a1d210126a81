"""Dense rewards from a few queries: first, last and one anchor step, spread by similarity."""

from __future__ import annotations

from hashlib import blake2b
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt

from diffrl.stages import Judge, RewardPredictor
from diffrl.tensors import Float, Int, Tensor
from diffrl.types import Rewards, Rollout

TIE = 16
"""Sums this many roundings apart are equal. Those of both ends always are the same number, so that
rounding, and with it the batch a row was in, would decide between them."""


class Anchors(RewardPredictor):
    """A reward for every step from three queries per row: first, anchor and last step.

        S_q[k] = cos(x0_hat_k, x0_hat_q),   anchor = argmin_k S_first[k] + S_last[k]
        r[k] = sum_q R_q S_q[k] / sum_q S_q[k],  q in first, anchor, last
        then r[first] = R_first, r[last] = R_last, r[anchor] = R_anchor, in this order

    Pictures are decoded from the predicted clean latents. Similarities may be negative and their
    sum is not guarded. A picture that two queries name is scored once.

    Source: SDPO, arXiv:2411.11727, eq. 11-12 (v2); ZiyiZhang27/sdpo scripts/train_sdpo.py and
    `pipeline_with_logprob.py`.
    Differs: T = 1 takes one query and gives its score (the published code stops with an index
    error). The published code runs in fp16, where sums of similarities tie within 0.001, and takes
    the first of equal ones; here they tie within rounding of fp32. The argmin covers all steps as
    in that code; v1's eq. 10 leaves both ends out: `anchor_range="interior"`. The other settings
    are the paper's ablations.
    """

    name: ClassVar[str] = "anchors"
    needs: ClassVar[frozenset[str]] = frozenset({"x0_hat"})
    anchor: Literal["adaptive", "random", "fixed"] = Field(
        default="adaptive",
        description="Which step is the anchor: least similar to both ends, or any.",
    )
    anchor_range: Literal["all", "interior"] = Field(
        default="all", description="Where the anchor may be: all steps, or without both ends."
    )
    fixed_step: NonNegativeInt | None = Field(
        default=None,
        description="The anchor of anchor=fixed, at most T-1; none: the middle, 24 of 50.",
    )
    query: Literal["first-anchor-last", "first-last", "last", "every"] = Field(
        default="first-anchor-last", description="Which steps are scored by the judge."
    )
    spread: Literal["similarity", "linear"] = Field(
        default="similarity",
        description="How scores reach other steps: by similarity, or by position.",
    )

    @property
    def asks_apart(self) -> bool:
        """Whether it may ask the judge for rows of a group at steps of their own."""
        return self.query == "first-anchor-last" and self.anchor != "fixed"

    def queries(self, steps: int) -> int:
        """Return how many pictures per row the judge scores, at most."""
        asked = {"first-anchor-last": 3, "first-last": 2, "last": 1, "every": steps}
        return min(steps, asked[self.query])

    def __call__(self, rollout: Rollout, judge: Judge) -> Rewards:
        """Return rewards of shape `n T`."""
        x0_hat = _clean(rollout)
        at = self._asked(rollout)
        score = _ask(rollout, x0_hat, at, judge)
        if self.query == "every":
            return Rewards(score)
        if self.query == "last":
            return Rewards(score.expand(-1, x0_hat.shape[1]).clone())
        if self.spread == "similarity":
            return Rewards(by_similarity(score, similarities(x0_hat, at), at))
        return Rewards(by_position(score, at, x0_hat.shape[1]))

    def _asked(self, rollout: Rollout) -> Int[Tensor, "n q"]:
        """Return the steps whose pictures are scored: in order, or first, anchor and last."""
        import torch

        x0_hat = _clean(rollout)
        rows, steps = x0_hat.shape[:2]
        every = torch.arange(steps, device=x0_hat.device).expand(rows, -1)
        if self.query == "every":
            return every
        if self.query == "last":
            return every[:, -1:]
        if self.query == "first-last":
            return every[:, [0, -1]]
        return torch.stack([every[:, 0], self._anchor(rollout), every[:, -1]], 1)

    def _anchor(self, rollout: Rollout) -> Int[Tensor, "n"]:
        """Return each row's anchor; the lowest step wins a tie."""
        import torch

        x0_hat = _clean(rollout)
        rows, steps = x0_hat.shape[:2]
        inside = self.anchor_range == "interior" and steps > 2
        low, high = (1, steps - 1) if inside else (0, steps)
        if self.anchor == "fixed":
            wanted = (steps - 1) // 2 if self.fixed_step is None else self.fixed_step
            step = max(low, min(wanted, high - 1))
            return torch.full((rows,), step, device=x0_hat.device)
        if self.anchor == "random":
            return low + torch.tensor(_numbers(rollout, high - low), device=x0_hat.device)
        ends = torch.tensor([0, steps - 1], device=x0_hat.device).expand(rows, -1)
        total = similarities(x0_hat, ends).sum(1)[:, low:high]
        least = total.amin(1, keepdim=True) + TIE * torch.finfo(total.dtype).eps
        places = torch.arange(low, high, device=x0_hat.device)
        return torch.where(total <= least, places, high - 1).amin(1)  # of nan, the last


def similarities(
    x0_hat: Float[Tensor, "n T *latent"], at: Int[Tensor, "n q"]
) -> Float[Tensor, "n q T"]:
    """Return the cosine of every step's clean prediction with that of each step in `at`."""
    import torch
    from torch.nn.functional import cosine_similarity

    flat = x0_hat.flatten(2).to(torch.promote_types(x0_hat.dtype, torch.float32))
    rows = torch.arange(len(flat), device=flat.device)
    named = [flat[rows, step][:, None] for step in at.unbind(1)]  # n 1 d
    return torch.stack([cosine_similarity(flat, one, dim=2, eps=1e-8) for one in named], 1)


def by_similarity(
    score: Float[Tensor, "n q"], similarity: Float[Tensor, "n q T"], at: Int[Tensor, "n q"]
) -> Float[Tensor, "n T"]:
    """Return scores averaged by similarity; a step that was asked keeps its own score.

    Where steps coincide the anchor's score wins: columns are written first, last, anchor.
    """
    similarity = similarity.to(score)
    dense = (score[:, :, None] * similarity).sum(1) / similarity.sum(1)
    for q in (0, -1, *range(1, at.shape[1] - 1)):
        dense.scatter_(1, at[:, q : q + 1] if q >= 0 else at[:, q:], score[:, q, None])
    return dense


def by_position(
    score: Float[Tensor, "n q"], at: Int[Tensor, "n q"], steps: int
) -> Float[Tensor, "n T"]:
    """Return scores interpolated linearly between the steps that were asked."""
    import torch

    k = torch.arange(steps, device=score.device)
    dense = score[:, :1].expand(-1, steps)
    for q in range(1, at.shape[1]):
        a, b = at[:, q - 1, None], at[:, q, None]
        share = ((k - a) / (b - a).clamp(min=1)).clamp(0, 1).to(score)
        dense = dense + share * (score[:, q, None] - score[:, q - 1, None])
    return dense


def _ask(
    rollout: Rollout, x0_hat: Float[Tensor, "n T *latent"], at: Int[Tensor, "n q"], judge: Judge
) -> Float[Tensor, "n q"]:
    """Return the judge's score of each step in `at`, from one call that names no picture twice."""
    import torch

    rows, steps = x0_hat.shape[:2]
    number = torch.arange(rows, device=at.device)[:, None] * steps + at
    asked, back = torch.unique(number, return_inverse=True)
    row, step = asked // steps, asked % steps
    return judge(x0_hat[row, step], rollout.prompts.pick(row.tolist()), step)[back]


def _clean(rollout: Rollout) -> Float[Tensor, "n T *latent"]:
    """Return the clean states that were predicted."""
    assert rollout.path is not None and rollout.path.x0_hat is not None
    return rollout.path.x0_hat


def _numbers(rollout: Rollout, below: int) -> list[int]:
    """Return a number for each row, random but for its initial noise and its place in its group.

    That noise is drawn, not computed: it is the same in whatever batch or process the row is. Rows
    that share it differ in their place alone, so it takes a hash that mixes every bit.
    """
    assert rollout.path is not None
    noise, group = rollout.path.x[:, 0].detach().float().cpu().numpy(), rollout.prompts.group
    place = [int((group[:row] == number).sum()) for row, number in enumerate(group)]
    mixed = (
        blake2b(one.tobytes(), digest_size=8, salt=at.to_bytes(4, "big")).digest()
        for at, one in zip(place, noise, strict=True)
    )
    return [int.from_bytes(one, "big") % below for one in mixed]

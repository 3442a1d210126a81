"""Check of the rewards: pictures must score higher than noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffrl.doctor.finding import Finding, found, skipped
from diffrl.doctor.rehearsal import Rehearsal
from diffrl.pipeline import centre_square
from diffrl.scoring import ScoredBy, checked
from diffrl.tensors import Float, Tensor
from diffrl.trainer.session import Session

ADVICE = (
    "see that higher_is_better is right, that the reward loads the weights it should, and that it "
    "expects pictures in [0, 1]; --pictures FOLDER tries pictures of yours; a reward that likes "
    "noise says likes_noise = True"
)


def reward_order(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """Score pictures, and uniform noise in their place, with each trained reward."""
    if not session.rewards:
        return [skipped("reward order", "no reward is trained on")]
    with torch.no_grad():
        images, text = _pictures(session, rehearsal)
        rng = torch.Generator().manual_seed(0)
        noise = torch.rand(images.shape, generator=rng).to(images)
        return [_compared(session, reward, images, noise, text) for reward in session.rewards]


def _compared(
    session: Session,
    reward: ScoredBy,
    images: Float[Tensor, "n 3 h w"],
    noise: Float[Tensor, "n 3 h w"],
    text: Sequence[str],
) -> Finding:
    name = f"reward order: {reward.name}"
    if reward.likes_noise:
        return skipped(name, "noise is what this reward likes")
    batch = min(64, session.pieces.decode.size)
    scores, noises = _scores(reward, images, noise, text, batch)
    good, bad = (reward.scale * float(s.mean()) for s in (scores, noises))
    right = good > bad if reward.higher_is_better else good < bad
    sign = "above" if reward.higher_is_better else "below (lower is better)"
    measured = f"{len(text)} pictures {good:.3g}, noise {bad:.3g}"
    return found(name, measured, f"pictures {sign} noise", right, ADVICE)


def _scores(
    reward: ScoredBy,
    images: Float[Tensor, "n 3 h w"],
    noise: Float[Tensor, "n 3 h w"],
    text: Sequence[str],
    batch: int,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """Return the scores of pictures and of noise.

    A reward that compares pictures sees those of one prompt and their noise at once.
    """
    if reward.groupwise:
        pieces = [[i for i, t in enumerate(text) if t == one] for one in dict.fromkeys(text)]
    else:
        pieces = [list(range(len(text)))[i : i + batch] for i in range(0, len(text), batch)]
    scores = []
    for at in pieces:
        prompts = [text[i] for i in at]
        both = checked(reward, torch.cat([images[at], noise[at]]), prompts * 2)
        scores.append(both.float().unflatten(0, (2, -1)))
    first, second = torch.cat(scores, 1)
    return first, second


def _pictures(
    session: Session, rehearsal: Rehearsal
) -> tuple[Float[Tensor, "n 3 h w"], tuple[str, ...]]:
    """Return the given pictures, fitted to the model's size, or the rollout's last predictions."""
    rollout, batch = rehearsal.rollout, min(64, session.pieces.decode.size)
    last = rollout.x0
    if rollout.path is not None and rollout.path.x0_hat is not None:
        last = rollout.path.x0_hat[:, -1]
    if rehearsal.given is None:
        return torch.cat([session.decode(x) for x in last.split(batch)]), rollout.prompts.text
    like = session.decode(last[:1])
    fitted = [centre_square(p[None], like.shape[-1]).to(like) for p in rehearsal.given.images]
    return torch.cat(fitted), rehearsal.given.text

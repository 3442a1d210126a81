"""Calling rewards, and believing nothing that they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffrl.errors import DiffrlError, RewardError, RewardUnreachable
from diffrl.speed.fitting import memory_ended
from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Int, Tensor

GROUPWISE = "scores pictures only beside others of the same model"
"""Of a groupwise reward: its scores tell nothing of another model's."""


@dataclass(frozen=True)
class ScoredBy:
    """A loaded reward.

    Args:
        name: under which its scores are logged.
        score: pictures in [0, 1] and prompts to raw scores.
        weight: factor on the raw score in the sum that is trained on.
        scale: factor from the raw score to the unit in which it is logged.
        differentiable: whether gradient flows from the score to the pictures.
        groupwise: whether it must see all pictures of a group and step at once.
        higher_is_better: otherwise training lowers the score.
        likes_noise: whether noise may score higher than pictures.
    """

    name: str
    score: Scorer
    weight: float = 1.0
    scale: float = 1.0
    differentiable: bool = False
    groupwise: bool = False
    higher_is_better: bool = True
    likes_noise: bool = False

    @classmethod
    def load(cls, reward: Reward, device: str, weight: float) -> ScoredBy:
        """Load a reward; what its scorer says of itself counts more than what its class says.

        Raises:
            RewardError: if it cannot be loaded, or its scale is no number.
        """
        try:
            scorer = reward.load(device)
        except DiffrlError:
            raise
        except Exception as error:
            if memory_ended(error):
                raise
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise RewardError(f"reward {reward.name!r} cannot be loaded ({cause})") from error
        said = ("scale", "differentiable", "groupwise", "higher_is_better", "likes_noise")
        own = {name: getattr(scorer, name, getattr(reward, name)) for name in said}
        scale = own["scale"]
        if not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
            raise RewardError(
                f"reward {reward.name!r}: its scale is {scale!r}, expected a number other than 0"
            )
        return cls(reward.name, scorer, weight, **own)

    @property
    def factor(self) -> float:
        """The weight, negative where a lower score is better."""
        return self.weight if self.higher_is_better else -self.weight


def checked(
    reward: ScoredBy,
    images: Float[Tensor, "b 3 h w"],
    text: Sequence[str],
    step: Int[Tensor, "b"] | None = None,
) -> Float[Tensor, "b"]:
    """Return the scores of a batch of pictures.

    Args:
        reward: that scores.
        images: in [0, 1].
        text: their prompts.
        step: the denoising steps that predicted them, for messages.

    Raises:
        RewardError: naming reward, prompt and step, if pictures are out of range, the reward fails,
            or there is not one finite score per picture.
    """
    score = _scores(reward, images, text, step)
    if not bool((good := score.isfinite()).all()):
        where = _place(text, step, int((~good).nonzero()[0, 0]))
        bad = int((~good).sum())
        raise RewardError(
            f"reward {reward.name!r} gave {bad} score(s) that are not finite, first "
            f"{float(score[~good][0])} for {where}"
        )
    return score


def finite_or_nan(
    reward: ScoredBy,
    images: Float[Tensor, "b 3 h w"],
    text: Sequence[str],
    step: Int[Tensor, "b"] | None = None,
    failures: dict[str, str] | None = None,
) -> Float[Tensor, "b"]:
    """Return the scores of a batch of pictures, nan where the reward has none to give.

    Where it fails as a whole, pictures are tried one by one; a reward that compares pictures then
    has no score for any of them.

    Args:
        reward: that scores.
        images: in [0, 1].
        text: their prompts.
        step: the denoising steps that predicted them, for messages.
        failures: takes, by the reward's name, why it failed last.

    Raises:
        RewardError: if it breaks its promise otherwise than by failing.
    """
    try:
        score = _scores(reward, images, text, step)
    except RewardFailed as error:
        if len(images) == 1 or reward.groupwise:
            if failures is not None:
                failures[reward.name] = str(error)  # not the error, which holds the pictures
            return images.new_full((len(images),), torch.nan)
        at = [slice(i, i + 1) for i in range(len(images))]
        pieces = [finite_or_nan(reward, images[i], text[i], _some(step, i), failures) for i in at]
        score = torch.cat(pieces)
    return torch.where(score.isfinite(), score, torch.nan)


class RewardFailed(RewardError):
    """A reward that raised an error of its own, or was handed pictures out of range."""


def _scores(
    reward: ScoredBy, images: Tensor, text: Sequence[str], step: Tensor | None
) -> Float[Tensor, "b"]:
    """Return one score per picture, finite or not."""
    _refuse_out_of_range(reward, images, text, step)
    try:
        score = _as_tensor(reward.score(images.clone(), text))  # pictures that it may change
    except RewardUnreachable as error:
        raise RewardUnreachable(f"reward {reward.name!r}: {error}") from error
    except Exception as error:
        if memory_ended(error):
            raise  # the caller tries again with fewer pictures
        own = "" if isinstance(error, RewardError) else f"{type(error).__name__}: "
        more = f" and {len(text) - 1} more" if len(text) > 1 else ""
        raise RewardFailed(
            f"reward {reward.name!r} failed for {_place(text, step, 0)}{more} "
            f"({own}{' '.join(str(error).split())[:200]})"
        ) from error
    if not torch.is_tensor(score) or score.shape != (len(images),):
        got = f"shape {tuple(score.shape)}" if torch.is_tensor(score) else type(score).__name__
        raise RewardError(
            f"reward {reward.name!r} gave {got} for {len(images)} pictures, first "
            f"{_place(text, step, 0)}; expected one score each"
        )
    return score.to(images.device)


def _as_tensor(given: Any) -> Any:
    """Return an array or a list of numbers as a tensor; anything else as it is."""
    try:
        return given if torch.is_tensor(given) else torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        return given


def _refuse_out_of_range(
    reward: ScoredBy, images: Tensor, text: Sequence[str], step: Tensor | None
) -> None:
    """Raise if a picture is not in [0, 1], or holds numbers that are not finite."""
    flat = images.detach().flatten(1)
    good = ((flat >= 0) & (flat <= 1)).all(1)
    if bool(good.all()):
        return
    row = int((~good).nonzero()[0, 0])
    low, high = flat[row].aminmax()
    raise RewardFailed(
        f"reward {reward.name!r} was handed a picture for {_place(text, step, row)} in "
        f"[{float(low):.3g}, {float(high):.3g}], expected [0, 1]"
    )


def _place(text: Sequence[str], step: Tensor | None, row: int) -> str:
    at = "" if step is None else f" at denoising step {int(step[row])}"
    return f"prompt {text[row]!r}{at}"


def _some(step: Tensor | None, rows: slice) -> Tensor | None:
    return None if step is None else step[rows]

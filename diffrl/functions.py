"""Calling a user's function as a reward. Needs nothing but torch, so that a bare server can."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffrl.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor


class FunctionScorer:
    """Calls a function of pictures and prompts, and makes a tensor of what it returns.

    Attributes of the function become its own: `scale`, `differentiable`, `groupwise`,
    `higher_is_better` and `likes_noise`, as on `diffrl.stages.Reward`.

    Raises:
        RewardError: if it cannot be called, or its scale is no number.
    """

    def __init__(self, path: str, function: Any) -> None:
        if not callable(function):
            raise RewardError(f"reward {path}: {function!r} is not a function")
        self._path, self._function = path, function
        try:
            self.scale = float(getattr(function, "scale", 1.0))
        except (TypeError, ValueError):
            given = getattr(function, "scale", None)
            raise RewardError(f"reward {path}: its scale is {given!r}, expected a number") from None
        self.differentiable = bool(getattr(function, "differentiable", False))
        self.groupwise = bool(getattr(function, "groupwise", False))
        self.higher_is_better = bool(getattr(function, "higher_is_better", True))
        self.likes_noise = bool(getattr(function, "likes_noise", False))

    def __call__(self, images: Tensor, text: Sequence[str]) -> Tensor:
        """Return the scores of pictures `b 3 h w` in [0, 1], in fp32 where the pictures are.

        Raises:
            RewardError: if what the function returns is not made of numbers.
        """
        import torch

        given = self._function(images, list(text))
        try:
            scores = given if torch.is_tensor(given) else torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as error:
            kind = type(given).__name__
            raise RewardError(
                f"reward {self._path} gave a {kind}; expected {len(images)} numbers ({error})"
            ) from error
        return scores.to(images.device, torch.float32)


def imported(path: str) -> Any:
    """Return what `package.module:name` names; the working directory is searched, too.

    Raises:
        RewardError: if the module cannot be imported or has no such name.
    """
    module, _, name = path.partition(":")
    if "" not in sys.path:
        sys.path.append("")
    try:
        found = importlib.import_module(module)
    except Exception as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise RewardError(f"reward {path}: cannot import {module} ({cause})") from error
    try:
        return getattr(found, name)
    except AttributeError:
        raise RewardError(f"reward {path}: {module} has no {name!r}") from None

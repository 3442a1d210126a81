"""Any function as a reward: `--reward package.module:function`."""

from __future__ import annotations

import re
from functools import cache
from typing import ClassVar

from pydantic import Field, create_model

from diffrl.errors import RewardError
from diffrl.functions import FunctionScorer, imported
from diffrl.stages import Reward, Scorer

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class FunctionReward(Reward):
    """A function of pictures and prompts that returns one number a picture.

    It is handed pictures `b 3 h w` in [0, 1] and a list of b prompts, and may return a list, an
    array or a tensor. Attributes of the function, all optional, say more: `scale`,
    `differentiable`, `groupwise`, `higher_is_better` and `likes_noise`, as on
    `diffrl.stages.Reward`.
    """

    name: ClassVar[str] = "function"
    path: str = Field(description="package.module:function.")

    def problems(self) -> list[str]:
        """Return why the function cannot be had, if so."""
        try:
            FunctionScorer(self.path, imported(self.path))
        except RewardError as error:
            return [str(error)]
        return []

    def load(self, device: str) -> Scorer:
        """Return the function as a scorer."""
        return FunctionScorer(self.path, imported(self.path))


def function_reward(path: str, name: str | None = None) -> type[Reward]:
    """Return a reward class for a function, called as the function is unless a name is given."""
    usual = re.sub(r"[^a-z0-9]+", "-", path.partition(":")[2].lower()).strip("-")
    return _made(path, name or usual or "function")


@cache  # what is made of the same words is one class, so that its rewards can be equal
def _made(path: str, own: str) -> type[Reward]:
    made = create_model("FunctionReward", __base__=FunctionReward, path=(str, path))
    made.name = own  # pyright: ignore[reportAttributeAccessIssue]
    made.__doc__ = FunctionReward.__doc__
    return made

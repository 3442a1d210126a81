"""The emoji world's judge, as a reward to watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from diffrl.stages import Reward, Scorer


class AnimalAccuracy(Reward):
    """Share of pictures whose animal the emoji world's independent classifier recognises, × 100.

    A judge to watch beside a trained reward, not one to train on. Knows the 45 bundled animals.
    """

    name: ClassVar[str] = "animal-accuracy"
    scale: ClassVar[float] = 100.0
    licence: ClassVar[str] = "Apache-2.0 (bundled)"

    def unfit(self, prompts: Sequence[str]) -> str | None:
        """Return why it cannot score these prompts, if so."""
        from diffrl.emoji.world import CaptionError, parse

        for prompt in prompts:
            try:
                parse(prompt)
            except CaptionError as error:
                return str(error)
        return None

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device."""
        from diffrl.emoji.judge import load_judge

        return load_judge(device).accuracy

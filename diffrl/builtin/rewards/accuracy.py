"""The emoji world's judge, as a reward to watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Tensor

SIDE = 64
"""Of the pictures that the judge was trained on, in pixels."""


class AnimalAccuracy(Reward):
    """Share of pictures whose animal the emoji world's independent classifier recognises, × 100.

    A judge to watch beside a trained reward, not one to train on. Knows the 45 bundled animals, and
    sees pictures of other sizes resized to 64 pixels.
    """

    name: ClassVar[str] = "animal-accuracy"
    scale: ClassVar[float] = 100.0
    licence: ClassVar[str] = "Apache-2.0 (bundled)"
    preset: ClassVar[str | None] = "emoji"

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
        from diffrl.pipeline import centre_square

        judge = load_judge(device)

        def accuracy(
            images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]
        ) -> Float[Tensor, "b"]:
            return judge.accuracy(centre_square(images, SIDE), prompts)

        return accuracy

"""ImageReward."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from diffrl.builtin.references import missing
from diffrl.builtin.rewards.precision import Precision, precision
from diffrl.stages import Reward, Scorer

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of raw scores over ImageReward's own data; the package subtracts and divides by them."""


class ImageReward(Reward):
    """A BLIP that reads the prompt with the picture in view, and a linear head, on human rankings.

    SDPO trains on the raw output; the image-reward package prints it standardized.
    Source: Xu et al., ImageReward, arXiv:2304.05977; THUDM/ImageReward.
    """

    name: ClassVar[str] = "imagereward"
    differentiable: ClassVar[bool] = True
    licence: ClassVar[str] = "Apache-2.0"
    checkpoint: str = Field(
        "THUDM/ImageReward@5736be03b2652728fb87788c9797b0570450ab72",
        description="Hub id, the .pt file itself, or a folder of one's own.",
    )
    tokenizer: str = Field(
        "bert-base-uncased", description="Hub id or folder of the text encoder's tokenizer."
    )
    output: Literal["raw", "standardized"] = Field(
        "raw", description="The head's output, or less its mean 0.167 and divided by its std 1.033."
    )
    precision: Precision = precision()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return [
            *missing("rewards.imagereward.checkpoint", self.checkpoint),
            *missing("rewards.imagereward.tokenizer", self.tokenizer),
        ]

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device."""
        from diffrl.builtin.rewards.blip import BlipScorer

        raw = BlipScorer.load(self.checkpoint, self.tokenizer, device, self.precision)
        if self.output == "raw":
            return raw
        return lambda images, text: (raw(images, text) - MEAN) / STD

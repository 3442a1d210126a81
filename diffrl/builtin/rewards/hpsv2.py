"""Human Preference Score v2."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from diffrl.builtin.references import missing
from diffrl.builtin.rewards.precision import Precision, precision
from diffrl.stages import Reward, Scorer


class HPSv2(Reward):
    """Cosine of an open_clip ViT-H-14 finetuned on human preferences, printed × 100.

    Source: Wu et al., Human Preference Score v2, arXiv:2306.09341; tgxs002/HPSv2. SDPO uses v2.0.
    """

    name: ClassVar[str] = "hpsv2"
    scale: ClassVar[float] = 100.0
    differentiable: ClassVar[bool] = True
    licence: ClassVar[str] = "Apache-2.0"
    checkpoint: str = Field(
        "xswu/HPSv2@697403c78157020a1ae59d23f111aa58ced35b0a",
        description="Hub id, the .pt file itself, or a folder as open_clip saves it.",
    )
    version: Literal["v2.0", "v2.1"] = Field(
        "v2.0", description="Which weights a hub id stands for."
    )
    precision: Precision = precision()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return missing("rewards.hpsv2.checkpoint", self.checkpoint)

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device."""
        from diffrl.builtin.rewards.open_clip import OpenClipScorer

        return OpenClipScorer.load(self.checkpoint, self.version, device, self.precision).cosine

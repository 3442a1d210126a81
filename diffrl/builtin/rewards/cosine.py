"""Rewards that are the cosine of a picture and its prompt under a CLIP."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from diffrl.builtin.references import missing
from diffrl.builtin.rewards.precision import Precision, precision
from diffrl.stages import Reward, Scorer


class PickScore(Reward):
    """Cosine of a CLIP finetuned on human preferences, printed × 100.

    Raw scores are plain cosines, without the logit scale, as in SDPO's scorer.
    Source: Kirstain et al., Pick-a-Pic, arXiv:2305.01569; ZiyiZhang27/sdpo `pickscore_scorer.py`.
    """

    name: ClassVar[str] = "pickscore"
    scale: ClassVar[float] = 100.0
    differentiable: ClassVar[bool] = True
    licence: ClassVar[str] = "MIT"
    checkpoint: str = Field(
        "yuvalkirstain/PickScore_v1", description="Hub id or folder of a CLIPModel and processor."
    )
    precision: Precision = precision()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return missing("rewards.pickscore.checkpoint", self.checkpoint)

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device."""
        from diffrl.builtin.rewards.clip import ClipScorer

        return ClipScorer.load(
            self.checkpoint, device, self.precision, f"--reward-checkpoint {self.name}="
        ).cosine


class ClipScore(Reward):
    """Cosine of an untuned CLIP, printed × 100.

    Hessel et al. print 2.5 × max(cosine, 0); ImageReward's tables print the plain cosine, as here.
    Source: Hessel et al., CLIPScore, arXiv:2104.08718; Radford et al., arXiv:2103.00020.
    """

    name: ClassVar[str] = "clipscore"
    scale: ClassVar[float] = 100.0
    differentiable: ClassVar[bool] = True
    licence: ClassVar[str] = "MIT"
    checkpoint: str = Field(
        "openai/clip-vit-large-patch14", description="Hub id or folder of a CLIPModel."
    )
    precision: Precision = precision()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return missing("rewards.clipscore.checkpoint", self.checkpoint)

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device; shares its CLIP with other rewards that use the same."""
        from diffrl.builtin.rewards.clip import ClipScorer

        return ClipScorer.load(
            self.checkpoint, device, self.precision, f"--reward-checkpoint {self.name}="
        ).cosine

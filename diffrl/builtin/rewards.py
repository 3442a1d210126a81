"""Rewards: what pictures are scored by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from diffrl.builtin.models import checkpoint, missing
from diffrl.errors import CheckpointMissing
from diffrl.hookspecs import hookimpl
from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Tensor


class PickScore(Reward):
    """Cosine of a CLIP finetuned on human preferences, printed × 100.

    Raw scores are plain cosines, without the logit scale, as in SDPO's scorer.
    Source: Kirstain et al., Pick-a-Pic, arXiv:2305.01569; ZiyiZhang27/sdpo `pickscore_scorer.py`.
    """

    name: ClassVar[str] = "pickscore"
    scale: ClassVar[float] = 100.0
    checkpoint: str = Field(
        "yuvalkirstain/PickScore_v1", description="Hub id or folder of a CLIPModel and processor."
    )

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return missing("rewards.pickscore.checkpoint", self.checkpoint)

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device, in fp32."""
        from diffrl.builtin.clip import ClipScorer

        return ClipScorer.load(self.checkpoint, device).cosine


class Aesthetic(Reward):
    """The LAION aesthetic predictor: linear layers on the unit image embedding of a CLIP.

    Source: christophschuhmann/improved-aesthetic-predictor; its five layers have no
    non-linearity between them.
    """

    name: ClassVar[str] = "aesthetic"
    checkpoint: str = Field(
        "aesthetic.safetensors", description="File with the head's `layers.*` weights."
    )
    clip: str = Field("openai/clip-vit-large-patch14", description="The CLIP below the head.")

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return missing("rewards.aesthetic.clip", self.clip)

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device, in fp32."""
        from diffrl.builtin.clip import ClipScorer, linear_head

        path = Path(checkpoint(self.checkpoint))
        if not path.is_file():
            raise CheckpointMissing(
                f"no aesthetic head at {self.checkpoint!r}: expected a safetensors file with "
                f"`layers.*` weights. Point to one with --set rewards.aesthetic.checkpoint=FILE"
            )
        head, clip = linear_head(path, device), ClipScorer.load(self.clip, device)

        def score(images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
            return head(clip.image_embedding(images)).squeeze(-1)

        return score


class AnimalAccuracy(Reward):
    """Share of pictures whose animal the emoji world's independent classifier recognises, × 100.

    A judge to watch beside a trained reward, not one to train on. Knows the 45 bundled animals.
    """

    name: ClassVar[str] = "animal-accuracy"
    scale: ClassVar[float] = 100.0

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


@hookimpl
def diffrl_rewards() -> list[type[Reward]]:
    """Return the bundled rewards."""
    return [PickScore, Aesthetic, AnimalAccuracy]

"""The LAION aesthetic predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from diffrl.builtin.models import checkpoint, missing
from diffrl.builtin.rewards.precision import Precision, precision
from diffrl.errors import CheckpointMissing
from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Tensor


class Aesthetic(Reward):
    """The LAION aesthetic predictor: linear layers on the unit image embedding of a CLIP.

    Its five layers have no non-linearity between them. Ratings run from 1 to 10.
    Source: christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`.
    """

    name: ClassVar[str] = "aesthetic"
    differentiable: ClassVar[bool] = True
    licence: ClassVar[str] = "Apache-2.0; its CLIP: MIT"
    checkpoint: str = Field(
        "sac+logos+ava1-l14-linearMSE.pth",
        description="File (.pth or .safetensors) with the head's `layers.*` weights.",
    )
    clip: str = Field("openai/clip-vit-large-patch14", description="The CLIP below the head.")
    precision: Precision = precision()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        found = missing("rewards.aesthetic.clip", self.clip)
        if not Path(checkpoint(self.checkpoint)).is_file():
            found.append(_no_head(self.checkpoint))
        return found

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device; shares its CLIP with other rewards that use the same."""
        from diffrl.builtin.rewards.clip import ClipScorer
        from diffrl.builtin.rewards.heads import linear_layers, read_weights

        path = Path(checkpoint(self.checkpoint))
        if not path.is_file():
            raise CheckpointMissing(_no_head(self.checkpoint))
        head = linear_layers(read_weights(path), path).to(device)
        clip = ClipScorer.load(self.clip, device, self.precision)

        def score(images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
            return head(clip.image_embedding(images)).squeeze(-1)

        return score


def _no_head(ref: str) -> str:
    return (
        f"no aesthetic head at {ref!r}: expected a .pth or .safetensors file with `layers.*` "
        f"weights. Point to one with --reward-checkpoint aesthetic=FILE"
    )

"""The LAION aesthetic predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from diffrl.builtin.references import find, local, missing
from diffrl.builtin.rewards.precision import Precision, precision
from diffrl.checksums import split
from diffrl.errors import CheckpointMissing
from diffrl.stages import Reward, Scorer
from diffrl.tensors import Float, Tensor

FILE = "sac+logos+ava1-l14-linearMSE.pth"


class Aesthetic(Reward):
    """The LAION aesthetic predictor: linear layers on the unit image embedding of a CLIP.

    Its five layers have no non-linearity between them. Ratings run from 1 to 10.
    Source: christophschuhmann/improved-aesthetic-predictor, `sac+logos+ava1-l14-linearMSE.pth`.
    """

    name: ClassVar[str] = "aesthetic"
    differentiable: ClassVar[bool] = True
    licence: ClassVar[str] = "Apache-2.0; its CLIP: MIT"
    checkpoint: str = Field(
        FILE,
        description="File (.pth or .safetensors) with the head's `layers.*` weights.",
    )
    clip: str = Field("openai/clip-vit-large-patch14", description="The CLIP below the head.")
    precision: Precision = precision()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        found = missing("rewards.aesthetic.clip", self.clip)
        found += missing("rewards.aesthetic.checkpoint", self.checkpoint)
        return found if found or self._head_is_there() else [_no_head(self.checkpoint)]

    def load(self, device: str) -> Scorer:
        """Return the scorer on a device; shares its CLIP with other rewards that use the same."""
        from diffrl.builtin.rewards.clip import ClipScorer
        from diffrl.builtin.rewards.heads import linear_layers, read_weights

        if not self._head_is_there():
            raise CheckpointMissing(_no_head(self.checkpoint))
        option = "--reward-checkpoint aesthetic="
        source = find(self.checkpoint, FILE, "aesthetic head", option)
        head = linear_layers(read_weights(source), source.file).to(device)
        clip = ClipScorer.load(self.clip, device, self.precision, "--set rewards.aesthetic.clip=")

        def score(images: Float[Tensor, "b 3 h w"], text: Sequence[str]) -> Float[Tensor, "b"]:
            return head(clip.image_embedding(images)).squeeze(-1)

        return score

    def _head_is_there(self) -> bool:
        path = local(split(self.checkpoint)[0])
        return path is not None and path.is_file()


def _no_head(ref: str) -> str:
    return (
        f"no aesthetic head at {ref!r}: expected a .pth or .safetensors file with `layers.*` "
        f"weights. Point to one with --reward-checkpoint aesthetic=FILE"
    )

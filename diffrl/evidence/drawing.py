"""Pictures of a judged model, from noise that all judged models share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from diffrl.evidence.protocol import Protocol, sampler_called
from diffrl.evidence.subjects import Subject
from diffrl.pipeline import decoder, fit_attention
from diffrl.policy import UNetPolicy
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Float, Tensor
from diffrl.trainer.evaluate import clean
from diffrl.trainer.session import policy_of, quiet

PIECE = 32
"""Pictures drawn in one call. Another number would be other noise."""

DECODED = 8
"""Pictures decoded and scored in one call."""


class Artist:
    """A judged model, ready to draw.

    Args:
        subject: whose pictures are wanted.
        protocol: sampler, size, guidance and precision.
        device: to draw on.
    """

    def __init__(self, subject: Subject, protocol: Protocol, device: str) -> None:
        quiet()
        self._protocol, self._sampler = protocol, sampler_called(protocol.sampler)
        pipeline = subject.pipeline()
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval().to(device, DTYPES[protocol.precision])
        for name, weight in pipeline.unet.named_parameters():
            if "lora_" in name:  # in fp32, as they are trained
                weight.data = weight.data.float()
        fit_attention(pipeline.unet)
        self._policy = policy(pipeline, protocol)
        self._decode: Callable[[Tensor], Tensor] = decoder(pipeline.vae)

    def pictures(self, text: Sequence[str], steps: int) -> Iterator[Float[Tensor, "b 3 h w"]]:
        """Yield the pictures of prompts, in pieces and in order."""
        sampler = self._sampler.for_evaluation(steps, self._protocol.eta)
        for start in range(0, len(text), PIECE):
            part = list(text[start : start + PIECE])
            rng = torch.Generator().manual_seed(noise_seed(self._protocol.seed, start, part))
            with torch.no_grad():
                latents = clean(sampler(self._policy, part, rng))
            for piece in latents.split(DECODED):
                with torch.no_grad():
                    images = self._decode(piece)
                yield images


def policy(pipeline: Any, protocol: Protocol) -> UNetPolicy:
    """Return the policy that draws with a pipeline."""
    unet, precision = pipeline.unet, protocol.precision

    def call(*inputs: Any, **more: Any) -> Any:
        # As accelerate calls it in training: inputs stay in fp32, and the network chooses.
        with torch.autocast(unet.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return unet(*inputs, **more)

    return policy_of(pipeline, call, protocol.size, protocol.guidance)


def noise_seed(seed: int, start: int, text: Sequence[str]) -> int:
    """Return the seed of a piece's noise: the same for every model that is asked for it."""
    digest = hashlib.sha256("\0".join([str(seed), str(start), *text]).encode()).digest()
    return int.from_bytes(digest[:7], "big")

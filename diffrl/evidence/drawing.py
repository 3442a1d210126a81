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
from diffrl.speed.fitting import UNBOUNDED, Fitting
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Float, Tensor
from diffrl.trainer.evaluate import clean
from diffrl.trainer.session import policy_of, quiet

PIECE = 32
"""Pictures whose noise is drawn at once. Another number would be other noise."""

DECODED = 8
"""Pictures decoded and scored in one call, at most."""

ADVICE = "--precision bf16, fewer rewards, or --device cpu"
"""What takes less memory."""


class Artist:
    """A judged model, ready to draw, with as many pictures in one call as memory holds.

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
        self._decode: Callable[[Tensor], Tensor] = torch.no_grad()(decoder(pipeline.vae))
        self._decoded = Fitting("pictures decoded at once", DECODED, advice=ADVICE)

    def pictures(
        self, text: Sequence[str], steps: int, seen: Callable[[Tensor], None] = lambda _: None
    ) -> Iterator[Float[Tensor, "b 3 h w"]]:
        """Yield the pictures of prompts, in pieces and in order.

        Args:
            text: the prompts.
            steps: of denoising.
            seen: looks at each piece; where memory ends in that, pieces are halved, too.
        """
        sampler = self._sampler.for_evaluation(steps, self._protocol.eta)
        for start in range(0, len(text), PIECE):
            part = list(text[start : start + PIECE])
            rng = torch.Generator().manual_seed(noise_seed(self._protocol.seed, start, part))
            with torch.no_grad():
                latents = clean(sampler(self._policy, part, rng))

            def shown(at: slice, of: Tensor = latents) -> Tensor:
                images = self._decode(of[at])
                seen(images)
                return images

            yield from self._decoded.over(len(latents), shown)


def policy(pipeline: Any, protocol: Protocol) -> UNetPolicy:
    """Return the policy that draws with a pipeline."""
    unet, precision = pipeline.unet, protocol.precision
    rows = Fitting("pictures in one network call", UNBOUNDED, advice=ADVICE)

    def call(*inputs: Tensor, **more: Any) -> tuple[Tensor]:
        # As accelerate calls it in training: states stay in fp32, and the network chooses.
        def piece(at: slice) -> Tensor:
            of_rows = {n: v[at] if isinstance(v, Tensor) else v for n, v in more.items()}
            return unet(*(one[at] for one in inputs), **of_rows)[0]

        with torch.autocast(unet.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return (torch.cat(list(rows.over(len(inputs[0]), piece))),)

    return policy_of(pipeline, call, protocol.size, protocol.guidance)


def noise_seed(seed: int, start: int, text: Sequence[str]) -> int:
    """Return the seed of a piece's noise: the same for every model that is asked for it."""
    digest = hashlib.sha256("\0".join([str(seed), str(start), *text]).encode()).digest()
    return int.from_bytes(digest[:7], "big")

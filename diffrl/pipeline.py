"""The parts of a diffusers pipeline, as the functions that the policy and the judge need."""

from __future__ import annotations

from typing import Any, get_args

import torch

from diffrl.errors import ModelIncomplete
from diffrl.kernels import Prediction
from diffrl.tensors import Float, Tensor


def fit_attention(unet: Any, kind: str = "auto") -> None:
    """Choose the attention of a UNet: fused or plain, or which of them trains fastest where it is.

    On a CPU the backward pass of the fused kernel costs more than it saves; elsewhere it stays.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    plain = next(unet.parameters()).device.type == "cpu" if kind == "auto" else kind == "plain"
    unet.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())


def ddim_schedule(config: Any) -> Any:
    """Return a DDIM scheduler with another scheduler's noise table and spacing.

    What another scheduler took from its own defaults counts, and is not replaced by DDIM's; only
    its spacing is, if it is named nowhere, since Euler's ends in a state without noise.

    Raises:
        ModelIncomplete: if the network predicts something that is not known.
    """
    from diffusers import DDIMScheduler

    plain = {"clip_sample": False, "set_alpha_to_one": False, **dict(config)}
    usual = plain.get("_use_default_values", ())
    plain["_use_default_values"] = [name for name in usual if name == "timestep_spacing"]
    made: Any = DDIMScheduler.from_config(plain)
    if (found := made.config.prediction_type) not in get_args(Prediction):
        raise ModelIncomplete(
            f"the model's scheduler says prediction_type = {found!r}; expected "
            f"{', '.join(get_args(Prediction))}"
        )
    return made


def scheduler_of(sampler: str, scheduler: Any) -> Any:
    """Return the diffusers scheduler that draws as a sampler does; of unknown ones, the model's."""
    from diffusers import LCMScheduler

    if sampler == "lcm":
        return LCMScheduler.from_config(scheduler.config)
    return ddim_schedule(scheduler.config) if sampler in ("ddim", "ode") else scheduler


def encoder(pipeline: Any) -> Any:
    """Return the function from prompts to conditions, shape `b tokens width`."""
    tokenizer, text_encoder = pipeline.tokenizer, pipeline.text_encoder

    def encode(text: list[str]) -> Float[Tensor, "b tokens width"]:
        tokens = tokenizer(
            text,
            padding="max_length",
            truncation=True,
            max_length=tokenizer.model_max_length,
            return_tensors="pt",
        )
        with torch.no_grad():
            return text_encoder(tokens.input_ids.to(text_encoder.device))[0].float()

    return encode


def decoder(vae: Any) -> Any:
    """Return the function from latents to pictures in [0, 1]."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0

    def decode(x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h8 w8"]:
        latent = (x0 / vae.config.scaling_factor + shift).to(vae.device, vae.dtype)
        return (vae.decode(latent, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    return decode


def latent_encoder(vae: Any, side: int) -> Any:
    """Return the function from pictures in [0, 1] of any size to latents of pictures of one."""
    shift = getattr(vae.config, "shift_factor", None) or 0.0

    def encode(pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h8 w8"]:
        fitted = centre_square(pictures, side).to(vae.device, vae.dtype) * 2 - 1
        with torch.no_grad():
            mean = vae.encode(fitted).latent_dist.mean.float()
        return (mean - shift) * vae.config.scaling_factor

    return encode


def centre_square(pictures: Float[Tensor, "b 3 h w"], side: int) -> Float[Tensor, "b 3 s s"]:
    """Return the middle square of pictures, resized."""
    height, width = pictures.shape[-2:]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = pictures[..., top : top + least, left : left + least]
    if least == side:
        return square
    resized = torch.nn.functional.interpolate(square, (side, side), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)

"""The networks of a run, built from their configurations on any device, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from diffrl.adapters import attach_lora, train_all
from diffrl.pipeline import decoder
from diffrl.planning.configs import PipelineConfig
from diffrl.planning.scorers import Scoring, made_in, scoring_networks
from diffrl.settings import Settings
from diffrl.speed.formats import DTYPES
from diffrl.speed.memory import save_memory
from diffrl.tensors import Float, Tensor


@dataclass(frozen=True)
class Networks:
    """What a run computes with, and the shapes that it is called with.

    Args:
        unet: with what is trained attached.
        vae: whole, as the pipeline holds it.
        text_encoder: of the prompts.
        rewards: those that are trained on; the others in `watched`.
        watched: rewards that evaluations score with besides.
        tokens: length of a prompt.
        width: of a token's condition.
        side: of pictures.
        latent: channels, height and width.
        dtype: of frozen weights and of what the forward pass is handed.
        device: where they are.
        fused: whether the UNet's attention is one kernel.
        half_norms: whether its norms give half precision.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    rewards: tuple[Scoring, ...]
    watched: tuple[Scoring, ...]
    tokens: int
    width: int
    side: int
    latent: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    fused: bool = True
    half_norms: bool = False

    @property
    def trained(self) -> list[nn.Parameter]:
        """The weights that are trained."""
        return [p for p in self.unet.parameters() if p.requires_grad]

    @property
    def half(self) -> bool:
        """Whether the forward pass computes in half precision."""
        return self.dtype != torch.float32

    def predict(self, rows: int) -> Float[Tensor, "rows c h w"]:
        """Return the UNet's output for a number of rows of zeros."""
        x = torch.zeros(rows, *self.latent, device=self.device)
        t = torch.full((rows,), 499.0, device=self.device)
        cond = torch.zeros(rows, self.tokens, self.width, device=self.device)
        options: dict[str, Any] = {"return_dict": False}
        if (embedded := self.unet.config.time_cond_proj_dim) is not None:
            options["timestep_cond"] = torch.zeros(rows, embedded, device=self.device)
        return self.unet(x, t, cond, **options)[0].float()

    def decode(self, rows: int) -> Float[Tensor, "rows 3 h w"]:
        """Return pictures of a number of latents of zeros."""
        return self.decode_latent(torch.zeros(rows, *self.latent, device=self.device))

    def decode_latent(self, latent: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 s s"]:
        """Return pictures of latents."""
        return decoder(self.vae)(latent)


def is_fused(settings: Settings, place: str) -> bool:
    """Return whether the UNet's attention is one kernel, on a CPU or a GPU."""
    asked = settings.speed.attention
    return place != "cpu" if asked == "auto" else asked == "fused"


def networks(settings: Settings, config: PipelineConfig, device: str, place: str) -> Networks:
    """Return the networks of a run with random weights, or without any on torch's `meta`.

    Args:
        settings: of the run.
        config: of its pipeline.
        device: where the networks are made: meta, cpu, cuda.
        place: where the run computes, which chooses the attention: cpu or cuda.
    """
    import diffusers

    _quiet()
    model, dtype = settings.model, DTYPES[settings.model.precision]
    with torch.device(device):
        with made_in(dtype):
            unet: Any = diffusers.UNet2DConditionModel.from_config(dict(config.unet))
            vae: Any = diffusers.AutoencoderKL.from_config(dict(config.vae))
            text_encoder = _text_encoder(config)
        for part in (unet, vae, text_encoder):
            part.requires_grad_(False).eval().to(dtype)
        if settings.adapter.kind == "lora":
            attach_lora(unet, settings.adapter.rank, settings.adapter.alpha, settings.train.seed)
        else:
            train_all(unet)
        if settings.speed.low_memory:
            save_memory(SimpleNamespace(unet=unet, vae=vae))
        rewards = tuple(scoring_networks([w.reward for w in settings.rewards], device))
        watched = tuple(scoring_networks(settings.watched, device, rewards))
    fused = is_fused(settings, place)
    if not fused:
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())  # as `fit_attention` does
    side = model.size or int(unet.config.sample_size) * config.shrinks
    small = side // config.shrinks
    return Networks(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        rewards=rewards,
        watched=watched,
        tokens=int(text_encoder.config.max_position_embeddings),
        width=int(text_encoder.config.hidden_size),
        side=side,
        latent=(int(unet.config.in_channels), small, small),
        dtype=dtype,
        device=torch.device(device),
        fused=fused,
        half_norms=settings.speed.half_norms and dtype != torch.float32,
    )


def _quiet() -> None:
    import transformers
    from diffusers.utils import logging

    logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()


def _text_encoder(config: PipelineConfig) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**dict(config.text_encoder)))


def bytes_of(module: nn.Module) -> int:
    """Return how many bytes a network's weights and buffers take."""
    held = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in held.values())


def file_bytes(path: Path) -> int:
    """Return the size of the weights in a file or folder."""
    kinds = (".safetensors", ".pt", ".pth", ".bin")
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.suffix in kinds)

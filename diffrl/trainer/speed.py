"""The settings of speed and memory, put into effect; and what keeps them from working."""

from __future__ import annotations

import os
from typing import Any

import torch

from diffrl.errors import SettingsError
from diffrl.pipeline import fit_attention
from diffrl.settings import OptimizerSettings, Settings, SpeedSettings
from diffrl.settings.splitting import shard_problems
from diffrl.speed.adding import fuse_adapters
from diffrl.speed.compiling import GRAPHS, compile_forward, compile_problems
from diffrl.speed.formats import channels_last, half_norms, multiply_in_tf32
from diffrl.speed.graphs import graph_forward, graph_problems
from diffrl.speed.memory import save_memory


def speed_problems(settings: Settings) -> list[str]:
    """Return what keeps means of speed from working, one line each."""
    speed, device = settings.speed, settings.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    found = compile_problems(speed.compile, device) + shard_problems(settings, processes)
    beside = {
        f"speed.compile = {speed.compile!r}": speed.compile != "off",
        "speed.merge": speed.merge,
        "speed.low_memory": speed.low_memory,
    }
    found += graph_problems(speed.graphs, device, processes, beside)
    if speed.compile in GRAPHS and settings.train.overlap == "on":
        found.append(
            f"train.overlap = 'on': not with speed.compile = {speed.compile!r}, whose recordings "
            f"belong to the thread that makes them; leave it at auto"
        )
    if speed.graphs and speed.deduplicate == "on":
        found.append(
            "speed.deduplicate = 'on': not with speed.graphs, which records every size of batch "
            "anew; leave it at auto"
        )
    if speed.merge and settings.adapter.kind == "full":
        found.append("speed.merge = True: with adapter.kind = 'full' there is nothing to merge")
    if speed.fused_adapters == "on" and settings.adapter.kind == "full":
        found.append("speed.fused_adapters = 'on': adapter.kind = 'full' has no adapters")
    if speed.low_memory and not speed.cache_text:
        found.append(
            "speed.cache_text = False: with speed.low_memory the text encoder leaves the device "
            "once prompts are encoded, so they must be kept"
        )
    return found


def ready(pipeline: Any, speed: SpeedSettings) -> None:
    """Put into effect what concerns the networks alone, before accelerate wraps the UNet."""
    unet, vae = pipeline.unet, pipeline.vae
    device = next(unet.parameters()).device.type
    fit_attention(unet, speed.attention)
    multiply_in_tf32(speed.tf32, device)
    if speed.channels_last:
        channels_last(pipeline)
    if speed.half_norms:
        half_norms(unet)
    if speed.fuses_adapters:
        fuse_adapters(unet)
    if speed.low_memory:
        save_memory(pipeline)
    if speed.graphs:
        graph_forward(unet)
    if speed.compile != "off":
        compile_forward(unet, speed.compile, "UNet")
        compile_forward(vae.decoder, speed.compile, "decoder")


def adamw(unet: Any, given: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of the weights that are trained.

    Raises:
        SettingsError: if it cannot be fused where the weights are.
    """
    trained = [p for p in unet.parameters() if p.requires_grad]
    device = trained[0].device.type
    fused = device in ("cpu", "cuda") if given.fused == "auto" else given.fused == "on"
    try:
        return torch.optim.AdamW(
            trained,
            lr=given.lr,
            betas=(given.beta1, given.beta2),
            eps=given.eps,
            weight_decay=given.weight_decay,
            fused=fused or None,  # else torch's own choice: many weights at once, on a GPU
        )
    except RuntimeError as error:
        raise SettingsError([f"optimizer.fused = {given.fused!r}: {error}"]) from None

"""Puts the last files beside the trained parts: pipeline index, real scores, checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from diffrl.emoji.diffusion import new_scheduler
from diffrl.emoji.train_aesthetic import load_head
from diffrl.emoji.train_clip import embed_images, embed_text, load_clip, tokens
from diffrl.emoji.training import pictures
from diffrl.emoji.world import ANIMALS, Scene

RENDERS = 16
"""Held-out renders per animal for the real scores."""


def finish(out: Path, scale: float = 1.0) -> None:
    """Writes the pipeline's index and scheduler, `real_scores.json` and `SHA256SUMS`."""
    folder = out / "pipeline"
    parts: Any = StableDiffusionPipeline  # which asks for parts that it can do without
    parts(
        vae=AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True).half(),
        text_encoder=CLIPTextModel.from_pretrained(
            folder / "text_encoder", use_safetensors=True
        ).half(),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True).half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    for part in (folder / "text_encoder", out / "pickscore"):
        load_as_fp32(part)
    forget_origin(out)
    scores = json.dumps(real_scores(out), indent=2)
    (out / "real_scores.json").write_text(scores + "\n")
    write_checksums(out)


def forget_origin(out: Path) -> None:
    """Takes the folder of the machine that trained them out of the models' configurations."""
    for path in out.rglob("config.json"):
        config = json.loads(path.read_text("utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def load_as_fp32(folder: Path) -> None:
    """Makes plain `from_pretrained` give fp32 from the fp16 file.

    transformers 5 loads in the dtype its config names, diffusers in fp32; named fp16, plain
    `StableDiffusionPipeline.from_pretrained` would mix the two and fail.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for part in (config, *_towers(config)):
        part.pop("torch_dtype", None)
        part["dtype"] = "float32"
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _towers(config: dict) -> list[dict]:
    return [config[name] for name in ("text_config", "vision_config") if name in config]


@torch.no_grad()
def real_scores(out: Path) -> dict[str, dict[str, float]]:
    """Mean and mean within-prompt std of both scores over fresh renders of the bare names."""
    clip, tokenizer = load_clip(out / "pickscore")
    head, rng = load_head(out), np.random.default_rng(20_000)
    drawn = [Scene((name,)) for name in ANIMALS for _ in range(RENDERS)]
    image = embed_images(clip, pictures(drawn, rng))
    text = embed_text(clip, tokens(tokenizer, list(ANIMALS))).repeat_interleave(RENDERS, 0)
    return {
        "pickscore": _spread(100 * (image * text).sum(1)),
        "aesthetic": _spread(head(image)[:, 0]),
    }


def _spread(score: Tensor) -> dict[str, float]:
    rows = score.reshape(-1, RENDERS)
    return {
        "mean": round(float(rows.mean()), 4),
        "std_within_prompt": round(float(rows.std(dim=1).mean()), 4),
    }


def write_checksums(out: Path) -> None:
    """`SHA256SUMS` of every delivered file, as `sha256sum -c` reads it."""
    delivered = [
        path
        for path in sorted(out.rglob("*"))
        if path.is_file() and "stages" not in path.parts
        and path.name not in ("SHA256SUMS", "timings.txt")
    ]  # fmt: skip
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(out)}\n"
        for path in delivered
    ]
    (out / "SHA256SUMS").write_text("".join(lines))

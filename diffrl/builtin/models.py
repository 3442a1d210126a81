"""Opening diffusers pipelines: folders, hub ids, and the bundled one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffrl.builtin.references import find, local
from diffrl.errors import CheckpointMissing, ModelIncomplete, one_line
from diffrl.hookspecs import hookimpl

INDEX = "model_index.json"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def missing_parts(folder: Path) -> list[str]:
    """Return the parts of a diffusers pipeline folder that are not there."""
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        return [INDEX]
    return [p for p in PARTS if p not in index or not (folder / p).is_dir()]


def check_model(ref: str) -> None:
    """Refuse a local model folder that lacks a part, before anything is loaded.

    Raises:
        ModelIncomplete: naming the parts.
    """
    folder = local(ref)
    if folder is None:
        if ref.startswith((".", "/", "~")):
            raise CheckpointMissing(
                f"no model at {one_line(ref)}: expected a diffusers pipeline folder"
            )
        return
    if missing := missing_parts(folder):
        raise ModelIncomplete(
            f"the model folder {ref} lacks {', '.join(missing)}; expected a Stable Diffusion "
            f"pipeline as `save_pretrained` writes it ({', '.join(PARTS)})"
        )


@hookimpl(trylast=True)
def diffrl_open_model(ref: str) -> Any:
    """Load a StableDiffusionPipeline from a folder, the hub, or the package itself."""
    from diffusers import StableDiffusionPipeline

    check_model(ref)
    source = find(ref, INDEX, "model", "--model ")
    try:
        return StableDiffusionPipeline.from_pretrained(
            source.where,
            safety_checker=None,
            requires_safety_checker=False,
            use_safetensors=True,
            **source.at,
        )
    except (OSError, ValueError) as error:
        raise source.unreadable("model", error) from None

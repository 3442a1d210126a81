"""Opening diffusers pipelines: folders, hub ids, and the bundled one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffrl.builtin.references import find, local
from diffrl.errors import CheckpointMissing, DiffrlError, ModelIncomplete, one_line
from diffrl.hookspecs import hookimpl

INDEX = "model_index.json"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


UNLIKE = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
"""What a UNet's configuration names where it must be told more than a state, a time and a text."""


def refuse_other_unets(ref: str, unet: Mapping[str, Any]) -> None:
    """Refuse the configuration of a UNet that Stable Diffusion's pipeline does not call.

    Raises:
        ModelIncomplete: saying what it would need.
    """
    found = [f"{name} = {unet[name]!r}" for name in UNLIKE if unet.get(name) is not None]
    if unet.get("in_channels", 4) != unet.get("out_channels", 4):
        found.append(f"in_channels = {unet['in_channels']}, out_channels = {unet['out_channels']}")
    if found:
        raise ModelIncomplete(
            f"the model {one_line(ref)} is of another kind ({'; '.join(found)}): expected a UNet "
            f"of Stable Diffusion, as of versions 1 and 2 and SD-Turbo; SDXL and inpainting "
            f"models are not supported"
        )


def missing_parts(folder: Path) -> list[str]:
    """Return the parts of a diffusers pipeline folder that are not there."""
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
    except (OSError, ValueError):
        return [INDEX]
    return [p for p in PARTS if p not in index or not (folder / p).is_dir()]


def refuse_single_file(ref: str, path: Path) -> None:
    """Refuse a file where a folder is expected.

    Raises:
        ModelIncomplete: saying how diffusers makes a folder of it.
    """
    if not path.is_file():
        return
    made = f'StableDiffusionPipeline.from_single_file("{path.name}").save_pretrained("my-model")'
    way = f", which diffusers makes of it: {made}, then --model my-model"
    raise ModelIncomplete(
        f"the model {one_line(ref)} is a single file; expected a diffusers pipeline folder"
        f"{way if path.suffix == '.safetensors' else ''}"
    )


def check_model(ref: str) -> None:
    """Refuse a local model folder that lacks a part, before anything is loaded.

    Raises:
        ModelIncomplete: naming the parts.
        CheckpointMissing: if nothing is there.
    """
    folder = local(ref)
    if folder is None:
        if ref.startswith((".", "/", "~")):
            raise CheckpointMissing(
                f"no model at {one_line(ref)}: expected a diffusers pipeline folder"
            )
        return
    refuse_single_file(ref, folder)
    if missing := missing_parts(folder):
        raise ModelIncomplete(
            f"the model folder {ref} lacks {', '.join(missing)}; expected a Stable Diffusion "
            f"pipeline as `save_pretrained` writes it ({', '.join(PARTS)})"
        )
    with contextlib.suppress(OSError, ValueError):  # which loading says in its own words
        unet = json.loads((folder / "unet" / "config.json").read_text("utf-8"))
        refuse_other_unets(ref, unet if isinstance(unet, dict) else {})


@hookimpl(trylast=True)
def diffrl_open_model(ref: str) -> Any:
    """Load a StableDiffusionPipeline from a folder, the hub, or the package itself."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    check_model(ref)
    source = find(ref, INDEX, "model", "--model ")
    try:
        # Of a hub, before gigabytes are fetched.
        found: Any = UNet2DConditionModel.load_config(source.where, subfolder="unet", **source.at)
        refuse_other_unets(ref, found)
        return StableDiffusionPipeline.from_pretrained(
            source.where,
            safety_checker=None,
            requires_safety_checker=False,
            use_safetensors=True,
            **source.at,
        )
    except DiffrlError:
        raise
    except Exception as error:  # of files, or of a hub's transport, which has errors of its own
        raise source.unreadable("model", error) from error

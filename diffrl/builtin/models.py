"""Opening diffusers pipelines: folders, hub ids, and the bundled one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffrl.errors import CheckpointMissing, ModelIncomplete, one_line, shown
from diffrl.hookspecs import hookimpl
from diffrl.paths import there

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def checkpoint(ref: str) -> str:
    """Return where a reference points: `bundled:<name>` is inside the package.

    Raises:
        CheckpointMissing: if no such weights are bundled.
    """
    scheme, _, name = ref.partition(":")
    if scheme != "bundled":
        return str(there(ref) or ref)
    from diffrl import emoji

    places = {
        "pipeline": emoji.PIPELINE,
        "pickscore": emoji.PICKSCORE,
        "aesthetic": emoji.AESTHETIC,
        "hpsv2": emoji.HPSV2,
        "imagereward": emoji.IMAGEREWARD,
    }
    if name not in places:
        raise CheckpointMissing(
            f"nothing bundled is called {shown(ref)}; there are {sorted(places)}"
        )
    return str(places[name])


def missing(field: str, ref: str) -> list[str]:
    """Return one line if a reference is a path, and nothing is there."""
    if not ref.startswith((".", "/", "~")) or there(ref):
        return []
    return [f"{field} = {shown(ref)}: no such file or folder"]


def missing_parts(folder: Path) -> list[str]:
    """Return the parts of a diffusers pipeline folder that are not there."""
    try:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
    except (OSError, ValueError):
        return ["model_index.json"]
    return [p for p in PARTS if p not in index or not (folder / p).is_dir()]


def check_model(ref: str) -> None:
    """Refuse a local model folder that lacks a part, before anything is loaded.

    Raises:
        ModelIncomplete: naming the parts.
    """
    folder = there(checkpoint(ref))
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
    try:
        return StableDiffusionPipeline.from_pretrained(
            checkpoint(ref), safety_checker=None, requires_safety_checker=False
        )
    except (OSError, ValueError) as error:
        raise unreachable("model", ref, "--model FOLDER", error) from None


def unreachable(what: str, ref: str, option: str, error: Exception) -> CheckpointMissing:
    """Return the error for weights that cannot be had, with its cause in one line."""
    cause = " ".join(str(error).split())[:160]
    return CheckpointMissing(
        f"cannot load the {what} {ref!r}: not in the local cache and not reachable. "
        f"Point to a local copy with {option}. ({type(error).__name__}: {cause})"
    )

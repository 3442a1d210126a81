"""Sizes of models without their weights: `config.json` files, and a table of published ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffrl.builtin.models import refuse_single_file
from diffrl.builtin.references import HUB, local
from diffrl.checksums import split
from diffrl.errors import CheckpointMissing, shown

PUBLISHED = Path(__file__).with_name("published.json")
"""Configurations by hub id, as their repositories have them, for presets planned offline."""

FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


@dataclass(frozen=True)
class PipelineConfig:
    """The configurations of a diffusers pipeline's parts, and where they were found."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    origin: str

    @property
    def shrinks(self) -> int:
        """By how much the VAE's encoder divides the side of a picture."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)


def pipeline_config(ref: str) -> PipelineConfig:
    """Return the configurations of a pipeline.

    Raises:
        CheckpointMissing: if they are neither on disk, nor in the hub's cache, nor in the table.
        ModelIncomplete: if the reference is a single file.
    """
    if (path := local(split(ref)[0])) is not None:
        refuse_single_file(ref, path)
    found = {part: find_config(ref, file) for part, file in FILES.items()}
    lacking = [FILES[part] for part, one in found.items() if one is None]
    if lacking:
        raise CheckpointMissing(
            f"cannot plan the model {shown(ref)}: no {', '.join(lacking)} on disk or in the hub's "
            f"cache, and its sizes are not in the table of diffrl (known: {', '.join(known())}); "
            f"fetch its config files once, or point to a folder with --model FOLDER"
        )
    there = {part: one for part, one in found.items() if one is not None}
    return PipelineConfig(**{p: c for p, (c, _) in there.items()}, origin=there["unet"][1])


def find_config(ref: str, file: str) -> tuple[dict[str, Any], str] | None:
    """Return a configuration and where it is from: disk, the hub's cache, or the table."""
    at = split(ref)[0]
    folder = local(at)
    if folder is not None:
        path = folder / file
        return (_read(path), "its folder") if path.is_file() else None
    hub = HUB.fullmatch(at)
    if hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub["repo"], file, revision=hub["revision"])
    if isinstance(cached, str):
        return _read(Path(cached)), "the hub's cache"
    known = published().get(hub["repo"], {}).get(file)
    return None if known is None else (known, "the table of published sizes")


@lru_cache
def published() -> dict[str, Any]:
    """Return the table: by hub id its `source` and, by file, what the file holds."""
    return json.loads(PUBLISHED.read_text("utf-8"))


def known() -> list[str]:
    """Return the hub ids of pipelines in the table."""
    return [ref for ref, files in published().items() if "unet/config.json" in files]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointMissing(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise CheckpointMissing(f"cannot read {path}: expected the configuration of a model")
    return found

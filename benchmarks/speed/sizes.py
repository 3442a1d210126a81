"""What is measured: the sizes of the benchmark, as settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from diffrl.errors import DiffrlError
from diffrl.settings import Settings
from diffrl.settings.resolve import resolve

WITHOUT_EVALUATION = (
    "eval.every=0",
    "train.epochs=100000",
    "checkpoint.every=100000",
)
"""The published code has no evaluation; checkpoints are timed apart."""


@dataclass(frozen=True)
class Size:
    """One size: a preset, settings on top of it, and what it needs.

    Args:
        preset: it begins with.
        sets: settings on top.
        device: it runs on; `cuda` is refused elsewhere.
        published: precision of the published schedule there.
    """

    preset: str
    sets: tuple[str, ...] = ()
    device: str = "cpu"
    published: str = "fp32"


# On a GPU phases are told apart only where scoring does not go on beside sampling.
SIZES = {
    "emoji": Size("emoji"),
    "tiny": Size(
        "sd-turbo",
        ("model.size=16", "model.precision=fp32", "sampler.steps=3", "train.trajectories=16",
         "update_scheduler.per_update=4", "train.micro_batch=4"),
    ),
    "sd-turbo": Size("sd-turbo", ("model.precision=bf16", "train.overlap=off"), "cuda", "fp16"),
}  # fmt: skip


def settings_of(name: str, weights: Path, sets: list[str]) -> Settings:
    """Return the settings of a size; random weights are written where it needs some.

    Raises:
        DiffrlError: if the size cannot run here, or a setting is wrong.
    """
    size = SIZES[name]
    if size.device == "cuda" and not torch.cuda.is_available():
        raise DiffrlError(
            f"--size {name} needs a GPU, and this machine has none; take --size emoji"
        )
    device = ["model.device=cpu"] if size.device == "cpu" else []
    with torch.device(size.device):
        made = _weights(name, weights)
    every = [*size.sets, *WITHOUT_EVALUATION, *device, *made, *sets]
    return resolve("sdpo", ["pickscore"], preset=size.preset, sets=every)


def saved_every(name: str, sets: list[str]) -> int:
    """Return after how many epochs a run of this size writes a checkpoint."""
    own = [one for one in sets if one.startswith("checkpoint.")]
    return resolve("sdpo", ["pickscore"], preset=SIZES[name].preset, sets=own).checkpoint.every


def _weights(name: str, folder: Path) -> list[str]:
    """Return the settings that name weights of this size, which are written if they are not."""
    if name == "emoji":
        return []
    from diffrl.testing import full_size, tiny

    model, clip = folder / "model", folder / "clip"
    if not model.exists():
        torch.manual_seed(0)
        save = tiny.save_tiny_pipeline if name == "tiny" else full_size.save_sd_turbo
        save(model)
        (tiny.save_tiny_clip if name == "tiny" else full_size.save_clip_h)(clip)
    return [f"model.ref={model}", f"rewards.pickscore.checkpoint={clip}"]

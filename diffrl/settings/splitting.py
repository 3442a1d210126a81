"""What keeps processes from splitting the weights that they train."""

from __future__ import annotations

from torch import __version__ as version

from diffrl.settings.resolved import Settings
from diffrl.speed.sharding import can_split


def shard_problems(settings: Settings, processes: int) -> list[str]:
    """Return what keeps weights from being split, one line each."""
    speed, kind = settings.speed, settings.speed.shard
    if kind == "off" or processes == 1:
        return []
    found = []
    if not can_split():
        found.append(
            f"speed.shard = {kind!r}: the FSDP2 of PyTorch {version} is too old; update it"
        )
    if settings.adapter.kind != "full":
        found.append(
            f"speed.shard = {kind!r}: with adapters there is nothing to split; add --set "
            f"adapter.kind=full, or leave it (and FSDP and DeepSpeed in the launcher) off"
        )
    if settings.model.precision == "fp16":
        found.append(f"model.precision = 'fp16': with speed.shard = {kind!r} expected bf16 or fp32")
    if speed.compile != "off":
        found.append(f"speed.compile = {speed.compile!r}: not with speed.shard = {kind!r}")
    return found

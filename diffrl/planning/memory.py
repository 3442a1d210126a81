"""What a run's process holds all the time, and what allocators take besides."""

from __future__ import annotations

from typing import Any

from diffrl.planning.costs import Costs, reward_bytes
from diffrl.planning.devices import GIB
from diffrl.planning.networks import bytes_of
from diffrl.planning.plan import Part
from diffrl.planning.probe import SLACK, Probe
from diffrl.settings import Settings
from diffrl.speed.sharding import BLOCKS, BUCKET

CONTEXT = GIB // 2
"""Bytes of a CUDA context with its libraries, which torch does not count. An assumption."""

LIBRARIES = int(0.85 * GIB)
"""Bytes of Python with all libraries of a run on a CPU, where they are not measured."""


def trained_bytes(costs: Costs) -> int:
    """Return the bytes of what is trained, which is in fp32."""
    return 4 * sum(p.numel() for p in costs.made.trained)


def own_bytes(settings: Settings, costs: Costs, processes: int) -> int:
    """Return the bytes of what is trained, or of a process's part where it is split."""
    return -(-trained_bytes(costs) // (processes if settings.speed.shard != "off" else 1))


def merged_bytes(settings: Settings, costs: Costs) -> int:
    """Return the bytes of the copies of weights while adapters are added to them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not settings.speed.merge:
        return 0
    layers: list[Any] = [m for m in costs.made.unet.modules() if isinstance(m, BaseTunerLayer)]
    return sum(int(layer.get_base_layer().weight.nbytes) for layer in layers)


def gathered_bytes(settings: Settings, costs: Costs, processes: int) -> int:
    """Return the bytes of split weights that are put together for a call, at the most.

    Of weights that are split, too, one block computes, the next one comes, and a block's gradients
    are on their way; what is in no block stays together during a call. Losses of whole trajectories
    call the network within a backward pass, where FSDP takes no block apart again.
    """
    if settings.speed.shard == "off" or processes == 1:
        return 0
    every = trained_bytes(costs)
    if settings.speed.shard == "gradients" or settings.recipe.loss.whole_trajectories:
        return every
    blocks = [bytes_of(m) for m in costs.made.unet.modules() if type(m).__name__ in BLOCKS]
    return min(every, every - sum(blocks) + 3 * max(blocks, default=0))


def held(
    settings: Settings,
    costs: Costs,
    processes: int,
    measured: Probe | None,
    away: bool = False,
) -> tuple[Part, ...]:
    """Return what one process holds all the time; `away`: but for a text encoder put elsewhere."""
    made, cpu = costs.made, costs.place == "cpu"
    trained = own_bytes(settings, costs, processes)
    gathered = gathered_bytes(settings, costs, processes)
    started = (measured.started if measured else LIBRARIES) if cpu else CONTEXT
    encoder = 0 if away else bytes_of(made.text_encoder)
    parts = [
        Part("libraries" if cpu else "CUDA context", started),
        Part("UNet, frozen weights", bytes_of(made.unet) - trained_bytes(costs)),
        Part("VAE" if away else "VAE and text encoder", bytes_of(made.vae) + encoder),
        Part("rewards", reward_bytes(settings, made)),
        Part("trained weights", trained),
        Part("old and base weights", 2 * trained),
        Part("optimizer", 2 * trained),
    ]
    if settings.adapter.kind == "lora":  # see diffrl.trainer.moment
        parts.append(Part("state to go back to", 4 * trained))
    if gathered:
        parts.append(Part("weights put together", gathered))
    elif processes > 1:
        parts.append(Part("gradients in exchange", min(trained, 2 * 4 * BUCKET)))
    return tuple(part for part in parts if part.bytes)


def slack(costs: Costs, measured: Probe | None, least: bool = False) -> float:
    """Return the bytes that are taken for each byte that a call needs; `least`: at the least."""
    if measured is None:
        return 1.0 if least else SLACK[costs.place]
    made, shape = costs.made, measured.shape
    rewards = [r.network for r in made.rewards if r.network is not None and not r.shared]
    weights = sum(bytes_of(n) for n in (made.unet, made.vae, made.text_encoder, *rewards))
    calls = max(
        costs.forward(shape.sampled).peak,
        costs.score(shape.decoded).peak,
        costs.train(shape.trained).peak,
    )
    grown = measured.grown - weights - 3 * trained_bytes(costs)  # gradients, and AdamW's two
    return max(1.0, grown / max(calls, 1))

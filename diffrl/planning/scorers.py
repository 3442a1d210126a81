"""The networks inside rewards, found by the configurations that their references lead to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffrl.builtin.references import local
from diffrl.builtin.rewards.blip import LENGTH, text_config, under, vision_config, vision_key
from diffrl.builtin.rewards.pixels import Preprocess
from diffrl.checksums import split
from diffrl.errors import CheckpointMissing
from diffrl.planning.configs import find_config
from diffrl.speed.formats import DTYPES
from diffrl.stages import Reward
from diffrl.tensors import Float, Tensor


@dataclass(frozen=True)
class Scoring:
    """A reward as far as a plan can count it.

    Args:
        name: of the reward.
        network: its model, or none where there is none or it cannot be told.
        kind: of network.
        counted: whether all that the reward does is in `network`.
        shared: whether another reward holds the same weights already.
        key: what rewards that share weights have in common; empty: none can be told.
    """

    name: str
    network: nn.Module | None = None
    kind: str = ""
    counted: bool = False
    shared: bool = False
    key: str = ""

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> object:
        """Compute what scoring pictures computes, but for prompts, which are computed once."""
        network: Any = self.network
        if network is None:
            return None
        vision = network.vision_model if self.kind == "clip" else network["vision"]
        dtype = next(vision.parameters()).dtype
        side = int(vision.config.image_size)
        pixels = Preprocess.square(side)(images).to(dtype)
        if self.kind == "clip":
            return network.visual_projection(vision(pixel_values=pixels).pooler_output)
        seen = vision(pixel_values=pixels).last_hidden_state
        ids = torch.zeros(len(images), LENGTH, dtype=torch.long, device=images.device)
        return network["text"](
            input_ids=ids,
            attention_mask=seen.new_zeros(len(images), 1, LENGTH, LENGTH),  # added, as masks are
            encoder_hidden_states=seen,
            encoder_attention_mask=seen.new_zeros(len(images), 1, LENGTH, seen.shape[1]),
            is_decoder=False,
        ).last_hidden_state


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Make weights in a precision from the beginning, so that fp32 is never held of them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def scoring_networks(
    rewards: Sequence[Reward], device: str, others: Sequence[Scoring] = ()
) -> Iterator[Scoring]:
    """Yield the network of each reward; a CLIP that several share is counted once."""
    made = {one.key: one for one in others if one.key}
    for reward in rewards:
        if reward.remote:
            yield Scoring(reward.name, counted=True)
            continue
        ref = next(_references(reward), "")
        precision = str(getattr(reward, "precision", "fp32"))
        key = f"{ref} {precision}"
        if (same := made.get(key)) is not None:
            yield Scoring(reward.name, same.network, same.kind, True, shared=True)
            continue
        with made_in(DTYPES[precision]):
            network, kind = _network(ref)
        if network is not None:
            network = network.eval().requires_grad_(False).to(DTYPES[precision])
        counted = network is not None
        found = Scoring(reward.name, network, kind, counted, key=key if ref and counted else "")
        if found.key:
            made[key] = found
        yield found


def _references(reward: Reward) -> Iterator[str]:
    """Yield what a reward's fields point to; a CLIP below a head comes first."""
    for name in ("clip", "checkpoint"):
        if isinstance(ref := getattr(reward, name, None), str):
            yield ref


def _network(ref: str) -> tuple[nn.Module | None, str]:
    if not ref:
        return None, ""
    if (found := find_config(ref, "open_clip_config.json")) is not None:
        return _clip(_of_open_clip(found[0]["model_cfg"])), "clip"
    if (found := find_config(ref, "blip.json")) is not None:
        return _published_blip(found[0]), "blip"
    if (found := find_config(ref, "config.json")) is None:
        return None, ""
    config, folder = found[0], local(split(ref)[0])
    if config.get("model_type") == "clip":
        return _clip(config), "clip"
    if "vision_heads" in config and folder is not None:
        return _stored_blip(config, folder / "model.safetensors"), "blip"
    return None, ""


def _clip(config: Mapping[str, Any]) -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(**_undecided(config)))


def _undecided(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the precision that its weights were stored in."""
    return {
        name: _undecided(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in ("dtype", "torch_dtype")
    }


def _of_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the CLIPModel that computes what open_clip's does."""
    vision, text, dim = config["vision_cfg"], config["text_cfg"], int(config["embed_dim"])
    return {
        "projection_dim": dim,
        "vision_config": {
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        "text_config": {
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text.get("context_length", 77),
        },
    }


def _published_blip(config: Mapping[str, int]) -> nn.Module:
    from transformers import BlipTextConfig, BlipVisionConfig

    vision = BlipVisionConfig(
        hidden_size=config["vision_width"],
        intermediate_size=4 * config["vision_width"],
        num_hidden_layers=config["vision_layers"],
        num_attention_heads=config["vision_heads"],
        image_size=config["image_size"],
        patch_size=config["patch_size"],
    )
    text = BlipTextConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["text_width"],
        encoder_hidden_size=config["vision_width"],
        intermediate_size=4 * config["text_width"],
        num_hidden_layers=config["text_layers"],
        num_attention_heads=config["text_heads"],
        is_decoder=True,
    )
    return _blip(vision, text)


def _stored_blip(config: Mapping[str, Any], file: Path) -> nn.Module | None:
    """Return the towers of a folder, from the shapes that its file's head tells."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            shapes = {k: opened.get_slice(k).get_shape() for k in opened.keys()}
        weights = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
        seen = {vision_key(k): v for k, v in under(weights, "blip.visual_encoder.").items()}
        vision = vision_config(seen, int(config["vision_heads"]), file)
        read = under(weights, "blip.text_encoder.")
        return _blip(vision, text_config(read, int(config["text_heads"]), file))
    except (OSError, SafetensorError, CheckpointMissing):
        return None


def _blip(vision: Any, text: Any) -> nn.Module:
    from transformers import BlipTextModel, BlipVisionModel

    towers = {
        "vision": BlipVisionModel(vision),
        "text": BlipTextModel(text, add_pooling_layer=False),
    }
    return nn.ModuleDict(towers)

"""What of a UNet is trained, and how it is saved so that plain diffusers loads it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from diffrl.speed.copying import on_cpu
from diffrl.speed.sharding import is_split, plain_class
from diffrl.tensors import Tensor

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_FILE = "pytorch_lora_weights.safetensors"


def attach_lora(unet: Any, rank: int, alpha: float, seed: int) -> None:
    """Freeze a UNet and add low-rank adapters to the projections of every attention.

    `A ~ N(0, 1 / rank²)`, `B = 0`, scaled by `alpha / rank`, kept in fp32.
    A UNet in half precision is called under autocast, which rounds whatever an adapter multiplies:
    its adapters take their inputs as they come, where peft would first copy them into fp32.
    Source: diffusers 0.17.1 `LoRAAttnProcessor`, as DDPO and SDPO use it.
    """
    from peft import LoraConfig

    half = unet.dtype != torch.float32
    unet.requires_grad_(False)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        init_lora_weights="gaussian",
        target_modules=list(TARGETS),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(config)
    for parameter in unet.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in unet.modules() if half else ():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False


def train_all(unet: Any) -> None:
    """Train every weight of a UNet, in fp32."""
    unet.float()
    unet.requires_grad_(True)


def save_weights(unet: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write adapters as one LoRA file, or a fully trained UNet as a folder of its own.

    Args:
        unet: as it is trained.
        folder: to write to.
        weights: of what is trained, by name; needed where those of the UNet are split.
    """
    if not getattr(unet, "peft_config", None):
        _alone(unet, weights).save_pretrained(folder / "unet")
        return
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=on_cpu(layers),
        unet_lora_adapter_metadata=_metadata(unet),
        weight_name=LORA_FILE,
    )


def _alone(unet: Any, weights: Mapping[str, Tensor] | None) -> Any:
    """Return a UNet whose weights are all here."""
    if not is_split(unet):
        return unet
    with torch.device("meta"):
        made = plain_class(unet).from_config(unet.config)
    made.load_state_dict(weights, assign=True)
    return made


def _metadata(unet: Any) -> dict[str, Any]:
    """Return the adapter's configuration, without which a loader would assume alpha = rank.

    What is as usual is left out: an older peft refuses names that it does not know. But for
    `rank_pattern`, which diffusers before 0.40 insists on.
    """
    from peft import LoraConfig

    usual = LoraConfig().to_dict()
    own = unet.peft_config["default"].to_dict()
    own["target_modules"] = sorted(own["target_modules"])
    told = {k: v for k, v in own.items() if v != usual[k] or k in ("r", "lora_alpha")}
    plain = {k: v for k, v in told.items() if isinstance(v, str | int | float | list)}
    return {"rank_pattern": {}, **plain}


def load_weights(pipeline: Any, folder: Path) -> None:
    """Load what `save_weights` wrote into a diffusers pipeline."""
    if (folder / LORA_FILE).exists():
        logging.getLogger("diffusers").setLevel(logging.ERROR)
        pipeline.load_lora_weights(folder, weight_name=LORA_FILE, use_safetensors=True)
        return
    pipeline.unet = type(pipeline.unet).from_pretrained(folder / "unet", use_safetensors=True)

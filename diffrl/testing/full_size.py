"""SD-Turbo and PickScore at their real sizes, with random weights, for speed and memory.

Source of the sizes: the `config.json` files of stabilityai/sd-turbo and yuvalkirstain/PickScore_v1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffrl.testing.tiny import CLIP_VOCABULARY, letters_tokenizer


def save_sd_turbo(folder: Path) -> Path:
    """Write a StableDiffusionPipeline of SD-Turbo's sizes: UNet 865 million weights, in fp16."""
    import diffusers

    parts: Any = diffusers  # its annotations claim tuples of one block and no optional parts
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        hidden_act="gelu",
        projection_dim=512,
    )
    unet = parts.UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
    )
    vae = parts.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=768,
    )
    scheduler = parts.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
        steps_offset=1,
        prediction_type="epsilon",
    )
    parts.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=letters_tokenizer(folder, length=77),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16).save_pretrained(folder)
    return folder


def save_clip_h(folder: Path) -> Path:
    """Write a CLIPModel of CLIP ViT-H/14's sizes with its tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    text = {
        "vocab_size": CLIP_VOCABULARY,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    }
    vision = {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=1024)
    CLIPModel(config).save_pretrained(folder)
    letters_tokenizer(folder, length=77).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder

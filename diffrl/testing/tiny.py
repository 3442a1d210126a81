"""Stable Diffusion and PickScore of the real classes at toy sizes, with random weights, on disk.

For tests of everything that loads, trains and saves real checkpoints where none can be fetched.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

VOCABULARY, CLIP_VOCABULARY = 514, 49408


def save_tiny_pipeline(
    folder: Path, width: int = 32, seed: int = 0, embedded: int | None = None, **scheduler: Any
) -> Path:
    """Write a random StableDiffusionPipeline with SD-Turbo's schedule and structure.

    Args:
        folder: where to.
        width: of the text encoder and of cross-attention.
        seed: of the weights.
        embedded: width of an embedding of the guidance scale, as LCMs take one.
        scheduler: changes to SD-Turbo's scheduler settings.
    """
    import diffusers

    parts: Any = diffusers  # its annotations claim tuples of one block and no optional parts
    from transformers import CLIPTextModel

    torch.manual_seed(seed)
    unet = parts.UNet2DConditionModel(
        sample_size=8,
        time_cond_proj_dim=embedded,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=8,
        norm_num_groups=4,
    )
    vae = parts.AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    turbo = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "timestep_spacing": "trailing",
        "steps_offset": 1,
        "prediction_type": "epsilon",
    }
    parts.StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(_text_config(width)),
        tokenizer=letters_tokenizer(folder),
        unet=unet,
        scheduler=parts.EulerDiscreteScheduler(**{**turbo, **scheduler}),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_tiny_clip(folder: Path, size: int = 16, seed: int = 0) -> Path:
    """Write a random CLIPModel with its tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionConfig

    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=size,
        patch_size=8,
        projection_dim=16,
    )
    config = CLIPConfig(
        text_config=_text_config(32).to_dict(),
        vision_config=vision.to_dict(),
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    letters_tokenizer(folder).save_pretrained(folder)
    CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)
    return folder


def save_tiny_open_clip(folder: Path, size: int = 16, seed: int = 0) -> Path:
    """Write a random open_clip model as a folder that the reward `hpsv2` loads."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    vision: dict[str, Any] = {
        "image_size": size,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 8,
    }
    text: dict[str, Any] = {
        "context_length": 16, "vocab_size": VOCABULARY, "width": 32, "heads": 4, "layers": 1,
    }  # fmt: skip
    model: Any = CLIP(16, CLIPVisionCfg(**vision), CLIPTextCfg(**text))
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    letters_tokenizer(folder).save_pretrained(folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def save_tiny_blip(folder: Path, size: int = 16, seed: int = 0) -> Path:
    """Write a random BLIP with a head as a folder that the reward `imagereward` loads."""
    from safetensors.torch import save_file

    rng, width, patch = torch.Generator().manual_seed(seed), 32, 8
    shapes = {
        "visual_encoder.cls_token": (1, 1, width),
        "visual_encoder.pos_embed": (1, (size // patch) ** 2 + 1, width),
        "visual_encoder.patch_embed.proj.weight": (width, 3, patch, patch),
        "visual_encoder.patch_embed.proj.bias": (width,),
        **_linear("visual_encoder.norm", width),
        **_linear("visual_encoder.blocks.0.norm1", width),
        **_linear("visual_encoder.blocks.0.norm2", width),
        **_linear("visual_encoder.blocks.0.attn.qkv", 3 * width, width),
        **_linear("visual_encoder.blocks.0.attn.proj", width, width),
        **_linear("visual_encoder.blocks.0.mlp.fc1", 2 * width, width),
        **_linear("visual_encoder.blocks.0.mlp.fc2", width, 2 * width),
        "text_encoder.embeddings.word_embeddings.weight": (VOCABULARY, width),
        "text_encoder.embeddings.position_embeddings.weight": (64, width),
        **_linear("text_encoder.embeddings.LayerNorm", width),
        **_linear("text_encoder.encoder.layer.0.intermediate.dense", 2 * width, width),
        **_linear("text_encoder.encoder.layer.0.output.dense", width, 2 * width),
        **_linear("text_encoder.encoder.layer.0.output.LayerNorm", width),
    }
    for kind in ("attention", "crossattention"):
        at = f"text_encoder.encoder.layer.0.{kind}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{at}.{part}", width, width)
        shapes |= _linear(f"{at}.output.LayerNorm", width)
    state = {
        f"blip.{k}": 0.3 * torch.randn(shape, generator=rng) + ("norm" in k.lower())
        for k, shape in shapes.items()
    }
    state["mlp.layers.0.weight"] = torch.randn((1, width), generator=rng)
    state["mlp.layers.0.bias"] = torch.zeros(1)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"vision_heads": 4, "text_heads": 4}))
    return folder


def _linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _text_config(width: int) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def letters_tokenizer(folder: Path, length: int = 16) -> Any:
    """Return a CLIP tokenizer that knows single bytes only, so that any text has tokens."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    source = folder / "letters"
    source.mkdir(parents=True, exist_ok=True)
    (source / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(source, model_max_length=length)
    for file in source.iterdir():
        file.unlink()
    source.rmdir()
    return tokenizer

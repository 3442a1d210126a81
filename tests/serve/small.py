"""The packages' own networks at a small size with random weights, for their own environments."""

import json
import os
from pathlib import Path

import torch

import diffrl.serve.packages as packages
from diffrl.checksums import MARK, sha256

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
TEXT = {
    "vocab_size": 64, "hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 12,
    "intermediate_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0, "add_cross_attention": True,
    "attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "initializer_range": 0.02,
}  # fmt: skip
CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8
    },
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2
    },
}  # fmt: skip


def image_reward(images, prompts):
    """Score with a small network that image-reward builds and loads."""
    return packages.image_reward(images, prompts)


def hpsv2(images, prompts):
    """Score with a small network that hpsv2 builds and loads."""
    return packages.hpsv2(images, prompts)


def _small_image_reward():
    """Write tokenizer, settings and weights here; image-reward then loads them."""
    from ImageReward.models.BLIP import blip_pretrain, vit

    def small(_, size, *rest):
        width = 64
        return vit.VisionTransformer(size, 56, embed_dim=width, depth=2, num_heads=1), width

    blip_pretrain.create_vit = small
    folder = Path("bert-base-uncased")
    folder.mkdir(exist_ok=True)
    pieces = [*WORDS, *(f"##{letter}" for letter in WORDS[5:])]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    Path("med_config.json").write_text(json.dumps(TEXT))
    from ImageReward.ImageReward import ImageReward

    torch.manual_seed(0)
    model = ImageReward("med_config.json")
    for part in model.mlp.layers.parameters():
        torch.nn.init.normal_(part, std=0.05)
    torch.save(model.state_dict(), "ImageReward.pt")
    _pin("IMAGE_REWARD", "ImageReward.pt")
    packages._image_reward()


def _small_hpsv2():
    """Write settings and weights here; hpsv2 then loads them."""
    packages.mend_hpsv2()
    from hpsv2.src import open_clip

    Path("configs").mkdir(exist_ok=True)
    Path("configs/ViT-H-14.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config("configs")
    torch.manual_seed(0)
    torch.save({"state_dict": open_clip.create_model("ViT-H-14").state_dict()}, "HPS.pt")
    _pin("HPS_CHECKPOINT", "HPS.pt")
    packages._hpsv2()


def _pin(variable, name):
    """Vouch for a file that was written just now."""
    with open(name, "rb") as file:
        os.environ[variable] = f"{name}{MARK}{sha256(file)}"


image_reward.load, hpsv2.load, hpsv2.scale = _small_image_reward, _small_hpsv2, packages.hpsv2.scale

"""An open_clip model as HPSv2 for the emoji world: the CLIP, finetuned on preferences.

It learns from the same groups of pictures as PickScore, with a taste of its own: of two equally
good pictures it likes the one whose animal stands out more, whatever the paper's color.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from diffrl.emoji.judged import judged, pair_accuracy
from diffrl.emoji.tokenizer import LENGTH
from diffrl.emoji.train_clip import load_clip, said
from diffrl.emoji.train_pickscore import SCALE, preference_loss
from diffrl.emoji.training import DEVICE, fit, log

STEPS = 450
GROUPS = 16

TASTE = 0.4
"""Quality that the strongest contrast is worth over the weakest."""

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))
"""What CLIP's own preprocessing subtracts and divides by."""


def contrast(x: Tensor) -> Tensor:
    """How far the middle stands out from the frame, [...]: 0 not at all, 1 by 0.4 of luminance.

    Pictures [..., 3, 64, 64] in [0, 1]; the frame is the outer 4 pixels, of paper or of a place,
    and the middle all others.
    """
    weights = torch.tensor((0.299, 0.587, 0.114), device=x.device)[:, None, None]
    luminance = (x * weights).sum(-3)
    frame = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    frame[4:-4, 4:-4] = False
    paper = luminance[..., frame].mean(-1, keepdim=True)
    return ((luminance[..., ~frame] - paper).square().mean(-1).sqrt() / 0.4).clamp(max=1)


def new_open_clip(config: dict[str, Any]) -> Any:
    """An untrained open_clip model of a configuration."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    return CLIP(config["embed_dim"], vision, text, quick_gelu=config["quick_gelu"])


def configuration(clip: CLIPModel) -> dict[str, Any]:
    """The open_clip configuration of the same architecture."""
    whole: Any = clip.config
    text, vision = whole.text_config, whole.vision_config
    return {
        "embed_dim": whole.projection_dim,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
        },
    }


def weights_of(clip: CLIPModel) -> dict[str, Tensor]:
    """The CLIP's weights under open_clip's names, for pictures as `MEAN` and `STD` leave them."""
    own = {k: v.detach().float() for k, v in clip.state_dict().items()}
    vision, text = "vision_model.", "text_model."
    kernel = own[f"{vision}embeddings.patch_embedding.weight"]
    places = own[f"{vision}embeddings.position_embedding.weight"].clone()
    scale, shift = (2 * STD).to(kernel)[:, None, None], (2 * MEAN - 1).to(kernel)[:, None, None]
    places[1:] += (kernel * shift).sum((1, 2, 3))  # the CLIP saw 2 x - 1
    found = {
        "visual.class_embedding": own[f"{vision}embeddings.class_embedding"],
        "visual.positional_embedding": places,
        "visual.conv1.weight": kernel * scale,
        "visual.proj": own["visual_projection.weight"].T,
        "token_embedding.weight": own[f"{text}embeddings.token_embedding.weight"],
        "positional_embedding": own[f"{text}embeddings.position_embedding.weight"],
        "text_projection": own["text_projection.weight"].T,
        "logit_scale": own["logit_scale"],
    }
    for part in ("weight", "bias"):
        found[f"visual.ln_pre.{part}"] = own[f"{vision}pre_layrnorm.{part}"]
        found[f"visual.ln_post.{part}"] = own[f"{vision}post_layernorm.{part}"]
        found[f"ln_final.{part}"] = own[f"{text}final_layer_norm.{part}"]
    for tower, prefix in ((vision, "visual."), (text, "")):
        found |= _blocks(own, f"{tower}encoder.layers.", f"{prefix}transformer.resblocks.")
    return {k: v.contiguous() for k, v in found.items()}


def _blocks(own: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    found = {}
    for i in sorted({int(k[len(theirs) :].split(".")[0]) for k in own if k.startswith(theirs)}):
        for part in ("weight", "bias"):
            at = f"{theirs}{i}.self_attn."
            joined = torch.cat([own[f"{at}{x}_proj.{part}"] for x in "qkv"])
            found[f"{ours}{i}.attn.in_proj_{part}"] = joined
            found[f"{ours}{i}.attn.out_proj.{part}"] = own[f"{at}out_proj.{part}"]
            for old, new in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                             ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):  # fmt: skip
                found[f"{ours}{i}.{new}.{part}"] = own[f"{theirs}{i}.{old}.{part}"]
    return found


def prepared(x: Tensor) -> Tensor:
    """Pictures in [0, 1] less `MEAN`, divided by `STD`."""
    return (x - MEAN.to(x)[:, None, None]) / STD.to(x)[:, None, None]


def ids_of(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [b, 16] on `DEVICE`, with zeros behind the end, as open_clip pads."""
    rows = [tokenizer(c, truncation=True, max_length=LENGTH).input_ids for c in captions]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows], device=DEVICE)


def train_hpsv2(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/hpsv2`, from `out/stages/clip` and the student's pictures."""
    torch.manual_seed(41)
    clip, tokenizer = load_clip(out / "stages" / "clip")
    config = configuration(clip)
    model: Any = new_open_clip(config).to(DEVICE)
    model.load_state_dict(weights_of(clip))
    groups, ladder, held_out = judged(out, scale, seed=42)
    rng = np.random.default_rng(43)

    def score(x: Tensor, captions: list[str]) -> Tensor:
        image = F.normalize(model.encode_image(prepared(x)).float(), dim=-1)
        text = F.normalize(model.encode_text(ids_of(tokenizer, captions)).float(), dim=-1)
        return (image * text.repeat_interleave(len(x) // len(captions), 0)).sum(-1)

    def loss(step: int) -> Tensor:
        x, quality, drawn = groups.draw(GROUPS, rng)
        captions = [said(scene, rng) for scene in drawn]
        scores = score(x.flatten(0, 1), captions).unflatten(0, x.shape[:2])
        return preference_loss(SCALE * scores, quality + TASTE * contrast(x))

    steps = max(2, int(STEPS * scale))
    fit("hpsv2", model.train(), loss, steps=steps, lr=6e-4, weight_decay=0.03, ema=0.99)
    model.eval()
    report = pair_accuracy(score, ladder, held_out)
    log.info("hpsv2: %s", report)
    (out / "stages" / "hpsv2_pairs.json").write_text(json.dumps(report, indent=2))
    save_hpsv2(model, config, out)


def save_hpsv2(model: Any, config: dict[str, Any], out: Path) -> None:
    """Writes the model in fp16 as open_clip does, and its tokenizer."""
    folder = out / "hpsv2"
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        model.logit_scale.fill_(float(np.log(100)))
    state = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": config}, indent=2) + "\n"
    (folder / "open_clip_config.json").write_text(text)
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(out / "pipeline" / "tokenizer" / name, folder / name)

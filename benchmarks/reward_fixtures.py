"""Recomputes the reward numbers of the parity tests with the packages' own networks.

Runs in the environment of a package, not in the trainer's (`docs/rewards/serving.md`):

    ir/bin/python benchmarks/reward_fixtures.py imagereward
    hps/bin/python benchmarks/reward_fixtures.py hpsv2 [--seed 1] [--write]

The networks have the sizes that the file in `tests/parity/data` notes, and its weights and inputs,
or with `--seed` new ones. Prints how far the outputs are from the stored ones; `--write` stores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

DATA = Path(__file__).parent.parent / "tests" / "parity" / "data"

Tensors = dict[str, torch.Tensor]
Outputs = Callable[[Tensors], Tensors]


def main() -> None:
    """Recompute, compare and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reward", choices=sorted(NETWORKS))
    parser.add_argument("--seed", type=int, help="draw weights and inputs anew")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    path = DATA / f"{options.reward}_small.safetensors"
    weights, stored, notes = read(path)
    model, outputs = NETWORKS[options.reward](notes)
    model.eval()
    if options.seed is None:
        model.load_state_dict(weights, strict=False)
    else:
        weights, stored = drawn(model, weights, stored, options.seed)
    missing = [k for k in model.state_dict() if k not in weights and k not in BUFFERS]
    if missing:
        raise SystemExit(f"{path.name} lacks {missing}")
    with torch.no_grad():
        found = outputs(stored)
    for name, value in found.items():
        if options.seed is None:
            print(f"{name}: largest difference {float((value - stored[name]).abs().max()):.1e}")
    if options.write:
        content = {f"weights/{k}": v for k, v in weights.items()}
        content |= {f"io/{k}": v.contiguous() for k, v in {**stored, **found}.items()}
        save_file(content, str(path), metadata=notes)
        print(f"wrote {path}")


BUFFERS = {"attn_mask"}
"""Made by the network itself, never stored."""


def read(path: Path) -> tuple[Tensors, Tensors, dict[str, str]]:
    """Return weights, inputs with outputs, and the notes of a file."""
    parts: dict[str, Tensors] = {"weights": {}, "io": {}}
    for key, value in load_file(str(path)).items():
        part, _, rest = key.partition("/")
        parts[part][rest] = value
    head = path.read_bytes()
    (length,) = struct.unpack("<Q", head[:8])
    return parts["weights"], parts["io"], json.loads(head[8 : 8 + length])["__metadata__"]


def drawn(
    model: torch.nn.Module, weights: Tensors, stored: Tensors, seed: int
) -> tuple[Tensors, Tensors]:
    """Return weights and inputs of the stored shapes from a seed; token ids only change places."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if name.endswith(("norm.weight", "LayerNorm.weight")) else 0.0
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.copy_(scale + noise * (0.1 if parameter.ndim < 2 else 0.15))
    state = model.state_dict()
    inputs = dict(stored)
    inputs["pixel_values"] = torch.randn(stored["pixel_values"].shape, generator=rng)
    order = torch.randperm(len(stored["pixel_values"]), generator=rng)
    for name in ("input_ids", "attention_mask", "tokens"):
        if name in stored:
            inputs[name] = stored[name][order].contiguous()
    return {name: state[name].clone() for name in weights}, inputs


def imagereward(notes: dict[str, str]) -> tuple[torch.nn.Module, Outputs]:
    """Return image-reward's BLIP with its head, and what it gives."""
    from ImageReward.models.BLIP.med import (  # pyright: ignore[reportMissingImports]
        BertConfig,
        BertModel,
    )
    from ImageReward.models.BLIP.vit import (  # pyright: ignore[reportMissingImports]
        VisionTransformer,
    )

    model: Any = torch.nn.Module()
    model.blip, model.mlp = torch.nn.Module(), torch.nn.Module()
    model.blip.visual_encoder = VisionTransformer(**json.loads(notes["vision"]))
    config = BertConfig(**json.loads(notes["text"]), add_cross_attention=True)
    model.blip.text_encoder = BertModel(config=config, add_pooling_layer=False)
    model.mlp.layers = head(config.hidden_size)

    def outputs(given: Tensors) -> Tensors:
        seen = model.blip.visual_encoder(given["pixel_values"])
        read = model.blip.text_encoder(
            given["input_ids"],
            attention_mask=given["attention_mask"],
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long),
            return_dict=True,
        ).last_hidden_state
        score = model.mlp.layers(read[:, 0])
        return {"image_embeds": seen, "text_last_hidden": read, "score": score}

    return model, outputs


def head(width: int) -> torch.nn.Sequential:
    """Return the linear head at the small sizes of the stored file; dropout does nothing here."""
    sizes = (width, 64, 8, 4, 2, 1)
    linear = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    quiet = torch.nn.Identity
    return torch.nn.Sequential(
        linear[0], quiet(), linear[1], quiet(), linear[2], quiet(), linear[3], linear[4]
    )


def hpsv2(notes: dict[str, str]) -> tuple[torch.nn.Module, Outputs]:
    """Return hpsv2's CLIP, and what it gives."""
    from diffrl.serve.packages import mend_hpsv2

    mend_hpsv2()
    from hpsv2.src.open_clip.model import (  # pyright: ignore[reportMissingImports]
        CLIP,
        CLIPTextCfg,
        CLIPVisionCfg,
    )

    sizes = {name: json.loads(notes[name]) for name in ("embed_dim", "vision_cfg", "text_cfg")}
    vision, text = CLIPVisionCfg(**sizes["vision_cfg"]), CLIPTextCfg(**sizes["text_cfg"])
    model: Any = CLIP(sizes["embed_dim"], vision, text, output_dict=True)

    def outputs(given: Tensors) -> Tensors:
        found = model(given["pixel_values"], given["tokens"])
        image, text = found["image_features"], found["text_features"]
        return {"image_features": image, "text_features": text, "score": (image * text).sum(-1)}

    return model, outputs


NETWORKS = {"imagereward": imagereward, "hpsv2": hpsv2}


if __name__ == "__main__":
    main()

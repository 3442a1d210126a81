"""Pictures per second of each reward at its real size, against the published scorers' schedule.

    python -m benchmarks.reward_speed [--pictures 12] [--rounds 3] [--rewards pickscore hpsv2 …]

Random weights cost what trained ones cost. Both ways score the same pictures of 512 pixels and
their prompts, in turn, `--rounds` times; medians count. The published schedule is that of SDPO's
scorers, written plainly here: three calls, one for each queried step, pictures to uint8, to the
CPU, to PIL and back, text encoded in every call, fp32. diffrl's is one call of the reward's own
class, text cached, in fp32 and in bf16. Writes `benchmarks/results/reward_speed.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.default_run import machine
from diffrl.builtin.rewards.blip import BlipScorer, text_config, vision_config
from diffrl.builtin.rewards.clip import ClipScorer
from diffrl.builtin.rewards.open_clip import ARCHITECTURE, OpenClipScorer, empty
from diffrl.builtin.rewards.pixels import CLIP_MEAN, CLIP_STD
from diffrl.folder import environment
from diffrl.tensors import Tensor
from diffrl.testing.full_size import save_clip_h
from diffrl.testing.tiny import letters_tokenizer

RESULT = Path(__file__).parent / "results" / "reward_speed.json"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUERIES = 3

Score = Callable[[Tensor, Sequence[str]], Tensor]


def main() -> None:
    """Measure every reward, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=12, help="a multiple of 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rewards", nargs="+", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    result = {
        "machine": torch.cuda.get_device_name() if DEVICE == "cuda" else machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "pictures": options.pictures,
        "rounds": options.rounds,
        "size": 512,
        "rewards": {},
    }
    for name in options.rewards:
        row = measured(MODELS[name], options.pictures, options.rounds)
        result["rewards"][name] = row
        print(name, json.dumps(row))
        gc.collect()
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def measured(make: Callable[[Path], Any], count: int, rounds: int) -> dict[str, float]:
    """Return pictures per second of each way, and how far bf16 moves the scores."""
    with tempfile.TemporaryDirectory() as work:
        model = make(Path(work))
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, 512, 512, generator=rng).to(DEVICE)
    text = [f"a photo of animal number {i % 4}" for i in range(count)]
    ways: dict[str, Score] = {"published": published(model), "fp32": model.ours("fp32")}
    plain = ways["fp32"](images, text)
    seconds: dict[str, list[float]] = {name: [] for name in [*ways, "bf16"]}
    for _ in range(rounds):
        for name, score in ways.items():
            seconds[name].append(timed(score, images, text))
    half = model.ours("bf16")
    moved = (half(images, text) - plain).abs().max()
    seconds["bf16"] = [timed(half, images, text) for _ in range(rounds)]
    speed = {name: count / statistics.median(values) for name, values in seconds.items()}
    return {
        **{f"{name}_pictures_per_second": round(value, 3) for name, value in speed.items()},
        "fp32_over_published": round(speed["fp32"] / speed["published"], 2),
        "bf16_over_published": round(speed["bf16"] / speed["published"], 2),
        "bf16_moves_scores_by": float(moved),
        "spread_of_scores": float(plain.std()),
    }


@torch.no_grad()
def timed(score: Score, images: Tensor, text: Sequence[str]) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    score(images, text)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def published(model: Any) -> Score:
    """Return the published schedule: a call for each queried step, through PIL on the CPU."""

    def score(images: Tensor, text: Sequence[str]) -> Tensor:
        third = -(-len(images) // QUERIES)
        cuts = [slice(i, i + third) for i in range(0, len(images), third)]
        return torch.cat([model.plain(through_pil(images[at]).to(DEVICE), text[at]) for at in cuts])

    return score


def through_pil(images: Tensor) -> Tensor:
    """Return pictures as CLIP's processor of the published scorers makes them, one by one."""
    mean, std = (np.array(v, dtype=np.float32) for v in (CLIP_MEAN, CLIP_STD))
    levels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    prepared = []
    for one in levels:
        small = Image.fromarray(one).resize((224, 224), Image.Resampling.BICUBIC)
        prepared.append((np.asarray(small, dtype=np.float32) / 255 - mean) / std)
    return torch.from_numpy(np.stack(prepared)).permute(0, 3, 1, 2).contiguous()


class Clip:
    """transformers' CLIP: PickScore at ViT-H/14, CLIPScore at ViT-L/14."""

    def __init__(self, folder: Path) -> None:
        self._scorer = ClipScorer.load(str(folder), DEVICE)
        self._parts = (self._scorer._tokenizer, self._scorer._preprocess)

    def ours(self, precision: str) -> Score:
        """Return diffrl's scorer; its model changes its format in place."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._scorer._model.to(dtype)
        self._scorer._text.clear()
        return self._scorer.cosine

    def plain(self, pixels: Tensor, text: Sequence[str]) -> Tensor:
        """Return scores of prepared pictures, the text encoded anew."""
        model, tokenizer = self._scorer._model, self._scorer._tokenizer
        tokens = tokenizer(list(text), padding=True, return_tensors="pt").to(DEVICE)
        seen = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        read = model.text_projection(model.text_model(**tokens).pooler_output)
        return torch.nn.functional.cosine_similarity(seen, read)


def clip_h(work: Path) -> Clip:
    """Return PickScore's size."""
    return Clip(save_clip_h(work))


def clip_l(work: Path) -> Clip:
    """Return CLIPScore's size."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "projection_dim": 768}  # fmt: skip
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
              "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768}  # fmt: skip
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    ).save_pretrained(work)
    letters_tokenizer(work, length=77).save_pretrained(work)
    CLIPImageProcessor().save_pretrained(work)
    return Clip(work)


class Hps:
    """open_clip's ViT-H-14: HPSv2."""

    def __init__(self, work: Path) -> None:
        import open_clip

        config: Any = open_clip.get_model_config(ARCHITECTURE)
        self._tokenize: Any = open_clip.get_tokenizer(ARCHITECTURE)
        self._scorer = OpenClipScorer(empty(config), self._tokenize, DEVICE, "fp32")

    def ours(self, precision: str) -> Score:
        """Return diffrl's scorer; its model changes its format in place."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._scorer._model.to(dtype)
        self._scorer._dtype = dtype
        self._scorer._text.clear()
        return self._scorer.cosine

    def plain(self, pixels: Tensor, text: Sequence[str]) -> Tensor:
        """Return scores of prepared pictures, the text encoded anew."""
        model = self._scorer._model
        seen = model.encode_image(pixels)
        read = model.encode_text(self._tokenize(list(text)).to(DEVICE))
        return torch.nn.functional.cosine_similarity(seen, read)


class Blip:
    """ImageReward's BLIP: ViT-L/16 and a text encoder of BERT's size."""

    def __init__(self, work: Path) -> None:
        from transformers import BlipTextModel, BlipVisionModel

        sizes = {"embeddings.position_embedding": (1, 197, 1024),
                 "embeddings.patch_embedding.weight": (1024, 3, 16, 16),
                 "encoder.layers.0.mlp.fc1.weight": (4096, 1024)}  # fmt: skip
        seen = {k: torch.empty(shape) for k, shape in sizes.items()}
        seen |= {f"encoder.layers.{i}.x": torch.empty(0) for i in range(24)}
        sizes = {"embeddings.word_embeddings.weight": (30524, 768),
                 "embeddings.position_embeddings.weight": (512, 768),
                 "encoder.layer.0.intermediate.dense.weight": (3072, 768),
                 "encoder.layer.0.crossattention.self.key.weight": (768, 1024)}  # fmt: skip
        read = {k: torch.empty(shape) for k, shape in sizes.items()}
        read |= {f"encoder.layer.{i}.x": torch.empty(0) for i in range(12)}
        vision = BlipVisionModel(vision_config(seen, 0, work))
        text = BlipTextModel(text_config(read, 0, work), add_pooling_layer=False)
        self._parts = (vision, text, torch.nn.Linear(768, 1), letters_tokenizer(work, length=35))
        self._scorer = self._scored("fp32")

    def _scored(self, precision: str) -> BlipScorer:
        return BlipScorer(*self._parts, DEVICE, precision)

    def ours(self, precision: str) -> Score:
        """Return diffrl's scorer; its model changes its format in place."""
        self._scorer = self._scored(precision)
        return self._scorer

    def plain(self, pixels: Tensor, text: Sequence[str]) -> Tensor:
        """Return scores of prepared pictures, the text tokenized anew."""
        ids, mask = (torch.cat(part) for part in zip(*map(self._scorer._read, text), strict=True))
        return self._scorer.forward(pixels, ids, mask)


MODELS: dict[str, Callable[[Path], Any]] = {
    "pickscore": clip_h,
    "hpsv2": Hps,
    "imagereward": Blip,
    "clipscore": clip_l,
}

if __name__ == "__main__":
    main()

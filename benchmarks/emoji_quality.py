"""Measures the bundled emoji model: `python -m benchmarks.emoji_quality [--weights DIR]`.

Writes `benchmarks/results/emoji_quality.json`, prints the table, and with `--card` writes it into
the model card between its markers. `--grids DIR` saves pictures to look at.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Generator, Tensor

from diffrl.builtin.rewards import Aesthetic, HPSv2, ImageReward, PickScore
from diffrl.emoji import ROOT
from diffrl.emoji.diffusion import denoiser, sample
from diffrl.emoji.judge import Judge
from diffrl.emoji.judged import pair_accuracy
from diffrl.emoji.ladder import make_ladder
from diffrl.emoji.train_aesthetic import AestheticHead, load_head
from diffrl.emoji.train_clip import embed_images, embed_text, load_clip, tokens
from diffrl.emoji.train_vae import load_vae, psnr
from diffrl.emoji.training import pictures
from diffrl.emoji.world import ANIMALS, HELD_OUT, UNSEEN, Scene, parse
from diffrl.stages import Reward, Scorer

STEPS = (1, 2, 4, 8, 50)
SEED = 1234
RESULT = Path(__file__).parent / "results" / "emoji_quality.json"
START, END = "<!-- quality: begin -->", "<!-- quality: end -->"


@dataclass
class Models:
    """Everything that draws and rates."""

    pipe: StableDiffusionPipeline
    judge: Judge
    pickscore: torch.nn.Module
    tokenizer: transformers.CLIPTokenizer
    head: AestheticHead


def load(weights: Path) -> Models:
    """Loads all parts of a weights folder in fp32."""
    pipe = StableDiffusionPipeline.from_pretrained(weights / "pipeline", use_safetensors=True)
    judge = Judge()
    judge.load_state_dict(
        {k: v.float() for k, v in load_file(weights / "judge.safetensors").items()}
    )
    clip, tokenizer = load_clip(weights / "pickscore")
    return Models(pipe, judge.eval(), clip.eval(), tokenizer, load_head(weights))


@torch.no_grad()
def draw(models: Models, prompts: list[str], steps: int, seed: int, eta: float = 1.0) -> Tensor:
    """Pictures [n, 3, 64, 64] in [0, 1], guidance off; the first noise depends on `seed` alone."""
    rng = Generator().manual_seed(seed)
    noise = torch.randn((len(prompts), 4, 16, 16), generator=rng)
    shown = []
    for i in range(0, len(prompts), 32):
        ids = tokens(models.pipe.tokenizer, prompts[i : i + 32])
        text = models.pipe.text_encoder(input_ids=ids).last_hidden_state
        z = sample(denoiser(models.pipe.unet, text), noise[i : i + 32], steps, eta, rng)
        x = models.pipe.vae.decode(z / models.pipe.vae.config.scaling_factor).sample
        shown.append((x / 2 + 0.5).clamp(0, 1))
    return torch.cat(shown)


@torch.no_grad()
def rate(models: Models, x: Tensor, prompts: list[str]) -> dict[str, float]:
    """Judge's accuracy, both scores and their within-prompt std; prompts come in equal runs."""
    text = embed_text(models.pickscore, tokens(models.tokenizer, prompts))
    image = embed_images(models.pickscore, x)
    scores = {"pickscore": 100 * (image * text).sum(1), "aesthetic": models.head(image)[:, 0]}
    each = len(prompts) // len(dict.fromkeys(prompts))
    result = {"accuracy": float(models.judge.accuracy(x, prompts).mean())}
    for name, score in scores.items():
        result[name] = float(score.mean())
        result[f"{name}_std"] = float(score.reshape(-1, each).std(dim=1).mean())
    return {key: round(value, 4) for key, value in result.items()}


def measure(models: Models, weights: Path, each: int) -> dict[str, object]:
    """All figures of the model card."""
    names = [name for name in ANIMALS for _ in range(each)]
    rng = np.random.default_rng(SEED)
    real = pictures([Scene((name,)) for name in names], rng)
    table: dict[str, object] = {"real": rate(models, real, names)}
    for eta in (1.0, 0.0):
        for steps in STEPS:
            x = draw(models, names, steps, SEED, eta)
            table[f"eta {eta:g}, {steps} steps"] = rate(models, x, names)
    return {
        "bare names": table,
        "attributes": attributes(models, each),
        "vae_psnr_db": round(psnr(load_vae(weights), 512), 3),
        "pairs": pairs(weights),
        "agreement within prompts": agreement(models, weights),
        "safetensors_mb": round(sum(f.stat().st_size for f in weights.rglob("*.safetensors")
                                    if "stages" not in f.parts) / 1e6, 3),
    }  # fmt: skip


def attributes(models: Models, each: int) -> dict[str, dict[str, float]]:
    """Share of held-out captions with every named attribute recognised, by number of steps."""
    prompts = [text for text in HELD_OUT for _ in range(each)]
    kinds = np.array([parse(text).kind for text in prompts])
    unseen = np.array([text in UNSEEN for text in prompts])
    real = pictures([parse(text) for text in prompts], np.random.default_rng(SEED))
    shown = {"real": real} | {f"{n} steps": draw(models, prompts, n, SEED) for n in STEPS[:4]}
    table = {}
    for row, x in shown.items():
        right = models.judge.attributes(x, prompts).numpy()
        parts = {"the four unseen": unseen, "others": ~unseen}
        parts |= {kind: ~unseen & (kinds == kind) for kind in dict.fromkeys(kinds)}
        table[row] = {name: round(float(right[rows].mean()), 4) for name, rows in parts.items()}
    return table


def rewards(weights: Path) -> dict[str, Reward]:
    """The rewards of a weights folder, in the classes that training uses."""
    clip = str(weights / "pickscore")
    return {
        "pickscore": PickScore(checkpoint=clip),
        "hpsv2": HPSv2(checkpoint=str(weights / "hpsv2")),
        "imagereward": ImageReward(checkpoint=str(weights / "imagereward"), tokenizer=clip),
        "aesthetic": Aesthetic(checkpoint=str(weights / "aesthetic.safetensors"), clip=clip),
    }


def scorers(weights: Path) -> dict[str, Scorer]:
    """The same, loaded."""
    return {name: reward.load("cpu") for name, reward in rewards(weights).items()}


def pairs(weights: Path) -> dict[str, dict[str, float]]:
    """Accuracy of the preference models on pairs from noise that no training stage drew."""
    ladder, found = make_ladder(weights, 0.1, seed=SEED), scorers(weights)
    rows = np.arange(len(ladder.scenes))
    names = ("pickscore", "hpsv2", "imagereward")
    return {name: pair_accuracy(found[name], ladder, rows) for name in names}


@torch.no_grad()
def agreement(models: Models, weights: Path) -> dict[str, float]:
    """Correlation of two rewards over pictures of one prompt, less each prompt's mean."""
    prompts = [name for name in ANIMALS[:20] for _ in range(8)]
    x = draw(models, prompts, 2, SEED)
    scores = {name: score(x, prompts) for name, score in scorers(weights).items()}
    rows = torch.stack([s.reshape(-1, 8) - s.reshape(-1, 8).mean(1, True) for s in scores.values()])
    table, names = torch.corrcoef(rows.flatten(1)), list(scores)
    return {
        f"{a} and {b}": round(float(table[i, j]), 3)
        for (i, a), (j, b) in itertools.combinations(enumerate(names), 2)
    }


def origin() -> dict[str, str]:
    """Commit, machine and versions."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return {
        "commit": git.stdout.strip(), "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "diffusers": diffusers.__version__,
        "transformers": transformers.__version__, "seed": str(SEED),
    }  # fmt: skip


def table_text(result: dict) -> str:
    """The card's tables, as Markdown."""
    lines = ["| 45 bare names | judge's accuracy | PickScore x 100 (std) | aesthetic (std) |",
             "|---|---|---|---|"]  # fmt: skip
    for row, v in result["bare names"].items():
        lines.append(
            f"| {row} | {v['accuracy']:.3f} | {v['pickscore']:.1f} ({v['pickscore_std']:.1f}) "
            f"| {v['aesthetic']:.2f} ({v['aesthetic_std']:.2f}) |"
        )
    heads = list(result["attributes"]["real"])
    lines += ["", f"| held-out captions | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row, v in result["attributes"].items():
        lines.append(f"| {row} | {' | '.join(f'{v[h]:.3f}' for h in heads)} |")
    lines += ["", "| pairs put in the right order | all kinds | weakest kind |", "|---|---|---|"]
    for name, shares in result["pairs"].items():
        weakest = min(shares, key=shares.get)
        lines.append(f"| {name} | {shares['mean']:.3f} | {weakest}: {shares[weakest]:.3f} |")
    agreed = ", ".join(f"{k} {v:.2f}" for k, v in result["agreement within prompts"].items())
    lines += [
        "",
        f"Correlation of two rewards over generated pictures of one prompt: {agreed}.",
        "",
        f"VAE {result['vae_psnr_db']:.2f} dB. Safetensors: {result['safetensors_mb']:.1f} MB. "
        f"Commit "
        f"`{result['origin']['commit'][:8]}`, seed {result['origin']['seed']}.",
    ]
    return "\n".join(lines)


def save_grid(models: Models, folder: Path) -> None:
    """One PNG per number of steps: all names, then held-out captions."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [*ANIMALS, *UNSEEN, *HELD_OUT[4::3]][:81]
    for steps in STEPS:
        x = (draw(models, prompts, steps, 7) * 255).round().byte()
        rows = x.reshape(9, 9, 3, 64, 64).permute(0, 3, 1, 4, 2).reshape(576, 576, 3)
        big = Image.fromarray(rows.numpy()).resize((1152, 1152), Image.Resampling.NEAREST)
        big.save(folder / f"{steps}_steps.png")


def main() -> None:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--each", type=int, default=8, help="pictures per caption")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--grids", type=Path)
    parser.add_argument("--card", action="store_true", help="write the table into the model card")
    options = parser.parse_args()
    models = load(options.weights)
    if options.grids:
        save_grid(models, options.grids)
    result = {"origin": origin(), **measure(models, options.weights, options.each)}
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(result, indent=2) + "\n")
    text = table_text(result)
    print(text)
    if options.card:
        card = ROOT / "README.md"
        head, rest = card.read_text().split(START)
        card.write_text(f"{head}{START}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

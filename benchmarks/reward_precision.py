"""How far lower precision moves the scores of the four bundled rewards, which are trained.

    python -m benchmarks.reward_precision [--each 8]

The bundled model draws every animal `--each` times in four steps. What counts in training is the
order of the pictures of one prompt, so the shift is given in standard deviations of those, beside
the share of their pairs that change places. Writes `benchmarks/results/reward_precision.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from benchmarks.default_run import machine
from benchmarks.emoji_quality import SEED, draw, load, rewards
from diffrl.emoji import ROOT
from diffrl.emoji.world import ANIMALS
from diffrl.folder import environment
from diffrl.tensors import Tensor

STEPS = 4
RESULT = Path(__file__).parent / "results" / "reward_precision.json"


def main() -> None:
    """Measure every reward in every precision, write and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=8)
    each = parser.parse_args().each
    prompts = [name for name in ANIMALS for _ in range(each)]
    weights = ROOT / "weights"
    images = draw(load(weights), prompts, STEPS, SEED)
    result = {
        "machine": machine(),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "pictures": len(prompts),
        "each": each,
        "steps": STEPS,
        "rewards": {},
    }
    for name, reward in rewards(weights).items():
        with torch.no_grad():
            scores = {
                precision: reward.model_copy(update={"precision": precision})
                .load("cpu")(images, prompts)
                .reshape(-1, each)
                for precision in ("fp32", "bf16", "fp16")
            }
        exact = scores.pop("fp32")
        row = {precision: moved(exact, given) for precision, given in scores.items()}
        result["rewards"][name] = row
        print(name, row, flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def moved(exact: Tensor, given: Tensor) -> dict[str, float]:
    """Return how far scores [prompts, each] are from the exact ones, a common shift aside."""
    shift = given - exact
    own = shift - shift.mean(1, keepdim=True)
    signs = [(s[:, :, None] - s[:, None, :]).sign() for s in (exact, given)]
    pairs = exact.shape[1] * (exact.shape[1] - 1)
    swapped = (signs[0] != signs[1]).sum((1, 2)) / pairs
    return {
        "shift": float(shift.mean()),
        "noise_over_spread": float(own.square().mean().sqrt() / exact.std(1).mean()),
        "pairs_swapped": float(swapped.mean()),
    }


if __name__ == "__main__":
    main()

"""One SDPO epoch at the size of SD-Turbo (865 million weights, 512 pixels), with random weights.

    python -m benchmarks.full_size [--precision bf16] [--trajectories 64] [--epochs 2]

Random weights cost what trained ones cost. Writes `benchmarks/results/full_size.json`: seconds per
epoch by phase, peak memory, and the log-prob gap. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import diffrl
from diffrl.folder import environment
from diffrl.testing.full_size import save_clip_h, save_sd_turbo

RESULT = Path(__file__).parent / "results" / "full_size.json"


def main() -> None:
    """Build the models, run the epochs, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("full_size.py needs a GPU: an epoch takes days on a CPU")
    with tempfile.TemporaryDirectory() as work:
        sets = [
            f"model.ref={save_sd_turbo(Path(work) / 'sd-turbo')}",
            f"rewards.pickscore.checkpoint={save_clip_h(Path(work) / 'clip-h')}",
            f"model.precision={options.precision}",
            f"train.trajectories={options.trajectories}",
            "eval.images=4",
            "eval.every=0",
            *options.set,
        ]
        torch.cuda.reset_peak_memory_stats()
        run = diffrl.train(
            "sdpo",
            "pickscore",
            preset="sd-turbo",
            sets=sets,
            epochs=options.epochs,
            output=Path(work) / "run",
        )
        lines = run.metrics
    result: dict[str, Any] = {
        "settings": vars(options),
        "environment": environment(),
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        "epochs": lines[1:],
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

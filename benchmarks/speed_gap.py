"""Measures what each means of speed does to the log-prob gap, and to log-probs and pictures.

    python -m benchmarks.speed_gap [--compile]

Writes `benchmarks/results/speed_gap.json`. The bundled model draws eight pictures in four steps,
with adapters that are not zero. The gap is the largest |log-ratio| of unchanged weights between
sampling all eight at once and training on half of them at a time, with gradient.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.default_run import machine
from diffrl.adapters import attach_lora
from diffrl.builtin.samplers import Ddim
from diffrl.folder import environment
from diffrl.policy import UNetPolicy
from diffrl.settings import SpeedSettings
from diffrl.speed.formats import DTYPES
from diffrl.trainer.session import open_pipeline, policy_of, quiet
from diffrl.trainer.speed import ready
from diffrl.types import Advantages, Minibatch, Rollout, gather

RESULT = Path(__file__).parent / "results" / "speed_gap.json"
MEANS: dict[str, dict[str, Any]] = {
    "none": {},
    "attention=fused": {"attention": "fused"},
    "fused_adapters=off": {"fused_adapters": "off"},
    "channels_last": {"channels_last": True},
    "half_norms": {"half_norms": True},
    "low_memory": {"low_memory": True},
    "merge": {"merge": True},
    "compile=default": {"compile": "default"},
}
TEXT = ("cat", "a red colored fox", "two owls in the sea", "horse")
STRENGTH = 0.02
"""Standard deviation of what is added to the adapters, a strong finetuning."""


def main() -> None:
    """Measure each means in fp32 and bf16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile", action="store_true", help="takes many minutes on a CPU")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    quiet()
    chosen = {n: m for n, m in MEANS.items() if options.compile or "compile" not in m}
    rows = []
    for precision in ("fp32", "bf16"):
        usual: Rollout | None = None
        for name, means in chosen.items():
            found, rollout = measure(precision, SpeedSettings(**means), usual)
            usual = usual or rollout
            rows.append({"precision": precision, "means": name, **found})
            print(rows[-1])
    result = {
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "machine": machine(),
        "rows": rows,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def measure(
    precision: str, speed: SpeedSettings, usual: Rollout | None
) -> tuple[dict[str, float], Rollout]:
    """Return the gap, and how far log-probs and latents are from the usual way's."""
    policy = made(precision, speed)
    with torch.no_grad(), policy.sampling():
        drawn = Ddim(steps=4, group=2)(policy, TEXT, torch.Generator().manual_seed(0))
    gaps = []
    for step in range(4):
        for rows in torch.arange(8).split(4):
            piece = Minibatch(rows[:, None], torch.full((4, 1), step), True)
            batch = gather(drawn, Advantages(torch.ones(8, 4)), piece)
            assert batch.log_prob is not None
            gaps.append(float((policy.log_prob(batch).detach() - batch.log_prob).abs().max()))
    base, path, other = usual or drawn, drawn.path, (usual or drawn).path
    assert path is not None and other is not None
    found = {
        "gap": max(gaps),
        "log_prob": float((path.log_prob - other.log_prob).abs().max()),
        "latents": float((drawn.x0 - base.x0).abs().max() / base.x0.std()),
    }
    return found, drawn


def made(precision: str, speed: SpeedSettings) -> UNetPolicy:
    """Return a policy that samples and trains as the settings say."""
    dtype = DTYPES[precision]
    pipeline = open_pipeline("bundled:pipeline", torch.device("cpu"), dtype)
    unet, rng = pipeline.unet, torch.Generator().manual_seed(1)
    attach_lora(unet, 32, 32.0, 0)
    with torch.no_grad():
        for weight in (p for p in unet.parameters() if p.requires_grad):
            weight.add_(STRENGTH * torch.randn(weight.shape, generator=rng))
    ready(pipeline, speed)

    def call(*args: Any, **more: Any) -> Any:
        mixed = precision != "fp32"
        with torch.autocast("cpu", dtype) if mixed else contextlib.nullcontext():
            return unet(*args, **more)

    return policy_of(pipeline, call, None, 1.0, cache_text=speed.cache_text, merge=speed.merge)


if __name__ == "__main__":
    main()

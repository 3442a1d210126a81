"""Trains the judge on spoilt renders, so that it reads imperfect pictures too."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Generator, Tensor

from diffrl.emoji.damage import damaged
from diffrl.emoji.judge import Judge, judge_loss
from diffrl.emoji.training import DEVICE, SceneSource, fit, log
from diffrl.emoji.world import caption

STEPS = 1300
BATCH = 96


def train_judge(out: Path, scale: float = 1.0) -> None:
    """Trains and writes `out/judge.safetensors` in fp16."""
    torch.manual_seed(11)
    judge, source = Judge().to(DEVICE), SceneSource(12)
    noise = Generator().manual_seed(13)

    def loss(step: int) -> Tensor:
        drawn = source.scenes(BATCH)
        x = source.pictures(drawn)
        strength = torch.rand(len(x), generator=noise).to(x)
        spoilt = damaged(x, strength, noise, rounds=2)
        clean = torch.rand(len(x), generator=noise).to(x) < 0.2
        return judge_loss(judge(torch.where(clean[:, None, None, None], x, spoilt)), drawn)

    fit("judge", judge, loss, steps=max(2, int(STEPS * scale)), lr=2e-3, weight_decay=0.02,
        ema=0.995)  # fmt: skip
    _report(judge.eval())
    state = {k: v.detach().half().contiguous().cpu() for k, v in judge.state_dict().items()}
    save_file(state, out / "judge.safetensors")


def _report(judge: Judge) -> None:
    source = SceneSource(14)
    drawn = source.scenes(1000)
    x, names = source.pictures(drawn), [caption(scene) for scene in drawn]
    bad = damaged(x, torch.full((len(x),), 0.6, device=x.device), Generator().manual_seed(15), 2)
    for kind, pictures in (("clean", x), ("spoilt", bad)):
        animal, all_named = judge.accuracy(pictures, names), judge.attributes(pictures, names)
        log.info("judge on %s: %.3f animal, %.3f all", kind, animal.mean(), all_named.mean())

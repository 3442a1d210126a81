"""The optimisation loop and the pictures that all training stages share."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from diffrl.emoji.render import render_scene
from diffrl.emoji.world import Scene, is_held_out, scenes

log = logging.getLogger("diffrl.emoji")

SHARES = {"bare": 0.24, "color": 0.14, "place": 0.18, "count": 0.21, "pair": 0.23}
"""How often each kind of scene is drawn in training."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def training_scenes(kind: str) -> list[Scene]:
    """Scenes of one kind that are not held out."""
    return [scene for scene in scenes(kind) if not is_held_out(scene)]


class SceneSource:
    """Draws training scenes by `SHARES`, and their pictures."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pools = {kind: training_scenes(kind) for kind in SHARES}

    def scenes(self, count: int) -> list[Scene]:
        """`count` scenes; counted animals have no place half of the time."""
        kinds = self.rng.choice(list(SHARES), size=count, p=list(SHARES.values()))
        return [self._one(kind) for kind in kinds]

    def _one(self, kind: str) -> Scene:
        pool = self.pools[kind]
        scene = pool[self.rng.integers(len(pool))]
        if kind == "count" and scene.place and self.rng.random() < 0.4:
            bare = Scene(scene.animals, count=scene.count)
            return scene if is_held_out(bare) else bare
        return scene

    def pictures(self, drawn: Sequence[Scene]) -> Tensor:
        """Renders of scenes, float [b, 3, 64, 64] in [0, 1] on `DEVICE`."""
        return pictures(drawn, self.rng)


def pictures(drawn: Sequence[Scene], rng: np.random.Generator) -> Tensor:
    """Renders of scenes, float [b, 3, 64, 64] in [0, 1] on `DEVICE`."""
    stack = np.stack([render_scene(scene, rng) for scene in drawn])
    return torch.from_numpy(stack).to(DEVICE).permute(0, 3, 1, 2).float() / 255


def fit(
    name: str,
    module: nn.Module,
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.01,
    ema: float = 0.0,
) -> None:
    """Trains `module` in place: AdamW, warm-up, cosine, clip 1, bf16 autocast.

    `loss(step)` is called once a step; with `ema` > 0 the module ends with averaged weights.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    mean = [p.detach().clone() for p in params]
    started, running = time.time(), 0.0
    for step in range(steps):
        warm = min(1.0, (step + 1) / min(100, max(1, steps // 10)))
        for group in optimizer.param_groups:
            group["lr"] = lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        with torch.autocast(DEVICE, torch.bfloat16):
            value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        if ema:
            _follow(mean, params, min(ema, (step + 1) / (step + 10)))
        now = float(value.detach())
        running = 0.95 * running + 0.05 * now if step else now
        if step % max(1, steps // 20) == 0 or step == steps - 1:
            pace = (time.time() - started) / (step + 1)
            log.info("%s %d/%d loss %.4f %.0f ms/step", name, step, steps, running, 1e3 * pace)
    if ema:
        with torch.no_grad():
            for p, m in zip(params, mean, strict=True):
                p.copy_(m)


@torch.no_grad()
def _follow(mean: Sequence[Tensor], params: Iterable[Tensor], decay: float) -> None:
    torch._foreach_lerp_(list(mean), [p.detach() for p in params], 1 - decay)

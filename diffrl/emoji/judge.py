"""The independent judge: a small CNN that says which animals, color, place and count it sees.

It is trained on spoilt renders alone: never on generated pictures, never with a reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from diffrl.emoji import JUDGE
from diffrl.emoji.world import ANIMALS, COLORS, PLACES, Scene, parse
from diffrl.tensors import Float, Int, Tensor

HEADS = {"animal": len(ANIMALS), "color": 1 + len(COLORS), "place": 1 + len(PLACES), "count": 4}
"""Classes per head; color 0 is natural, place 0 is plain paper, count n - 1 is n animals."""


class Judge(nn.Module):
    """Four-headed classifier of 64 px pictures, about 0.4 million weights."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        blocks: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            blocks += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
            blocks += [nn.Conv2d(after, after, 3, 1, 1), nn.GroupNorm(8, after), nn.SiLU()]
        self.trunk = nn.Sequential(*blocks)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(2 * widths[-1], classes) for name, classes in HEADS.items()}
        )

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> dict[str, Tensor]:
        """Logits of each head, [b, classes]; pictures in [0, 1]."""
        seen = self.trunk(images * 2 - 1)
        seen = torch.cat([seen.mean((2, 3)), seen.amax((2, 3))], 1)
        return {name: head(seen) for name, head in self.heads.items()}

    @torch.no_grad()
    def accuracy(
        self, images: Float[Tensor, "b 3 64 64"], prompts: Sequence[str]
    ) -> Float[Tensor, "b"]:
        """1.0 where the animals of the prompt are the likeliest ones, else 0.0."""
        scenes = [parse(prompt) for prompt in prompts]
        return _animals_right(self(images)["animal"], scenes)

    @torch.no_grad()
    def attributes(
        self, images: Float[Tensor, "b 3 64 64"], prompts: Sequence[str]
    ) -> Float[Tensor, "b"]:
        """1.0 where animals and every color, place and count the prompt names are recognised."""
        scenes = [parse(prompt) for prompt in prompts]
        logits = self(images)
        right = _animals_right(logits["animal"], scenes).bool()
        for name, goal in targets(scenes, images.device).items():
            named = goal > 0  # class 0 is what a prompt leaves unsaid; -100 is not asked
            right &= ~named | (logits[name].argmax(1) == goal)
        return right.float()


def _animals_right(logits: Tensor, scenes: Sequence[Scene]) -> Tensor:
    top = logits.topk(2).indices.tolist()
    right = [
        {ANIMALS[i] for i in best[: len(set(scene.animals))]} == set(scene.animals)
        for best, scene in zip(top, scenes, strict=True)
    ]
    return torch.tensor(right, dtype=torch.float32, device=logits.device)


def targets(scenes: Sequence[Scene], device: torch.device | str) -> dict[str, Int[Tensor, "b"]]:
    """Classes of color, place and count; the count of a pair is -100, that is, not asked."""
    color = [COLORS.index(s.color) + 1 if s.color else 0 for s in scenes]
    place = [PLACES.index(s.place) + 1 if s.place else 0 for s in scenes]
    count = [s.count - 1 if len(s.animals) == 1 else -100 for s in scenes]
    named = {"color": color, "place": place, "count": count}
    return {name: torch.tensor(classes, device=device) for name, classes in named.items()}


def judge_loss(logits: dict[str, Tensor], scenes: Sequence[Scene]) -> Tensor:
    """Sum of cross-entropies; two animals share the probability."""
    device = logits["animal"].device
    hot = torch.zeros(len(scenes), len(ANIMALS), device=device)
    for row, scene in enumerate(scenes):
        for name in scene.animals:
            hot[row, ANIMALS.index(name)] = 1 / len(scene.animals)
    goals = targets(scenes, device)
    rest = [F.cross_entropy(logits[name].float(), goals[name]) for name in goals]
    return F.cross_entropy(logits["animal"].float(), hot, label_smoothing=0.02) + sum(rest)


def load_judge(device: torch.device | str = "cpu") -> Judge:
    """The bundled judge in fp32, frozen."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(JUDGE).items()})
    return judge.to(device).eval().requires_grad_(False)

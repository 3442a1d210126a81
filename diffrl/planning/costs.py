"""Costs of a run's calls on torch's `meta` device, each shape counted once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from diffrl.builtin.references import local
from diffrl.checksums import split
from diffrl.planning.configs import PipelineConfig, pipeline_config
from diffrl.planning.counting import Shapes
from diffrl.planning.meter import AsOnDevice, Cost, cost, cost_of_training
from diffrl.planning.networks import Networks, bytes_of, file_bytes, networks
from diffrl.planning.scorers import Scoring
from diffrl.settings import Settings


@dataclass
class Costs:
    """What calls of a run's networks cost, by number of rows.

    Args:
        made: the networks, on `meta`.
        place: where they are to compute: cpu or cuda.
    """

    made: Networks
    place: str
    _known: dict[tuple[str, int], Cost] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings, config: PipelineConfig, place: str) -> Costs:
        """Return the costs of a run's networks."""
        return cls(networks(settings, config, "meta", place), place)

    def forward(self, rows: int) -> Cost:
        """Return the cost of the UNet without gradient."""
        return self._cost("forward", rows)

    def train(self, rows: int) -> Cost:
        """Return the cost of the UNet with its backward pass, but for gradients of weights."""
        return self._cost("train", rows)

    def score(self, rows: int) -> Cost:
        """Return the cost of decoding latents and scoring them with what is trained on."""
        return self._cost("score", rows)

    def graded(self, rows: int) -> Cost:
        """Return the cost of that with its backward pass to the latents."""
        return self._cost("graded", rows)

    def evaluate(self, rows: int) -> Cost:
        """Return the cost of decoding latents and scoring them with all rewards."""
        return self._cost("evaluate", rows)

    def flops(self, kind: str, rows: int) -> float:
        """Return the operations of a call, which grow with its rows: one count serves all."""
        counted = max((n for own, n in self._known if own == kind), default=rows)
        return self._cost(kind, counted).flops * rows / max(1, counted)

    def _cost(self, kind: str, rows: int) -> Cost:
        if (kind, rows) not in self._known:
            self._known[kind, rows] = self._counted(kind, rows)
        return self._known[kind, rows]

    def _counted(self, kind: str, rows: int) -> Cost:
        half = self.made.dtype if self.made.half else None
        fused = self.place != "cpu"  # of VAE and rewards, which choose for themselves
        unet = AsOnDevice(half, self.made.fused, self.made.half_norms)
        if rows < 1:
            return Cost(0.0, 0)
        if kind == "forward":
            return cost(lambda: self.made.predict(rows), unet)
        if kind == "train":
            for weight in self.made.trained:  # as if there was an earlier backward pass
                weight.grad = torch.empty_like(weight)
            again = bool(self.made.unet.is_gradient_checkpointing)
            return cost_of_training(lambda: self.made.predict(rows), unet, cycles=again)
        if kind == "graded":
            return cost_of_training(lambda: self._score_graded(rows), AsOnDevice(None, fused))
        scorers = self.made.rewards + (self.made.watched if kind == "evaluate" else ())
        return cost(lambda: self._score(rows, scorers), AsOnDevice(None, fused))

    def _score(self, rows: int, scorers: tuple[Scoring, ...]) -> None:
        images = self.made.decode(rows)
        for one in scorers:
            one(images)

    def _score_graded(self, rows: int) -> torch.Tensor:
        latent = torch.zeros(rows, *self.made.latent, device="meta", requires_grad=True)
        images = self.made.decode_latent(latent)
        scores: list[Any] = [one(images) for one in self.made.rewards if one.network is not None]
        return torch.cat([s.flatten() for s in scores]) if scores else images


def shapes(settings: Settings, config: PipelineConfig) -> Shapes:
    """Return what stands for a pipeline while a recipe's calls are counted."""
    unet, text = config.unet, config.text_encoder
    side = settings.model.size or int(unet["sample_size"]) * config.shrinks
    return Shapes(
        channels=int(unet["in_channels"]),
        side=side // config.shrinks,
        tokens=int(text.get("max_position_embeddings", 77)),
        width=int(text["hidden_size"]),
        embedded=unet.get("time_cond_proj_dim"),
        scheduler=dict(config.scheduler),
    )


def reward_bytes(settings: Settings, made: Networks) -> int:
    """Return the bytes of all rewards' weights; of those not understood, of their files."""
    counted = [r.network for r in (*made.rewards, *made.watched) if not r.shared]
    total = sum(bytes_of(network) for network in counted if network is not None)
    unknown = {r.name for r in (*made.rewards, *made.watched) if not r.counted}
    for reward in (*(w.reward for w in settings.rewards), *settings.watched):
        ref = getattr(reward, "checkpoint", None)
        if reward.name in unknown and isinstance(ref, str):
            path = local(split(ref)[0])
            total += 0 if path is None else file_bytes(path)
    return total


__all__ = ["Costs", "pipeline_config", "reward_bytes", "shapes"]

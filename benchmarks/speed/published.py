"""One epoch of SDPO as the published code schedules it, written plainly.

Source: the order of work in ZiyiZhang27/sdpo `scripts/train_sdpo.py`; hyperparameters are those of
the settings. Differs: `skip_last` of the settings leaves out the last denoising steps, which the
published code cannot; the text of the empty prompt, which it embeds and never uses, is left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.network import adapt, ddim_step
from benchmarks.speed.rewards import (
    PilScorer,
    StepPromptTracker,
    anchored,
    dense_rewards,
    returns_of,
)
from benchmarks.speed.update import Update
from benchmarks.speed.watch import Watch
from diffrl.pipeline import ddim_schedule
from diffrl.registry import registry
from diffrl.settings import Settings
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Tensor

PROMPTS_AT_ONCE, WORKERS = 8, 2
"""Pairs that are sampled together, and threads that score, in all published configurations."""

JPEG_SIDE = 256


@dataclass
class Sampled:
    """One of the two trajectories of each pair of a batch."""

    latents: Tensor
    next_latents: Tensor
    log_probs: Tensor
    pictures: list[Tensor]
    anchor: Tensor
    alike: list[Tensor]


class Published:
    """A run of the published schedule.

    Args:
        settings: of the run that it is compared with.
        device: that computes.
        precision: fp16 as published, or fp32, since a CPU gains nothing from fp16.
        prompts: to choose from.
        folder: that checkpoints and pictures go to.
        watch: that counts and times.
        workers: threads that score beside sampling; 0: the main one.
    """

    def __init__(
        self, settings: Settings, device: torch.device, precision: str, prompts: Sequence[str],
        folder: Path, watch: Watch, workers: int = WORKERS,
    ) -> None:  # fmt: skip
        random.seed(settings.train.seed)
        torch.manual_seed(settings.train.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.settings, self.device, self._prompts = settings, device, list(prompts)
        self._folder, self.watch, self._dtype = folder, watch, DTYPES[precision]
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self.pipeline = pipeline = self._open()
        self.schedule = ddim_schedule(pipeline.scheduler.config)
        self.table = self.schedule.alphas_cumprod
        lora = settings.adapter
        self.adapters = adapt(pipeline.unet, lora.rank, lora.alpha)
        self.trained = [p for a in self.adapters.values() for p in a.parameters()]
        self.scorer = PilScorer.load(settings.rewards[0].reward.checkpoint, device)
        estimator = settings.recipe.advantage_estimator
        self.tracker = StepPromptTracker(estimator.buffer, estimator.min_count)
        self._unet = watch.around("unet", pipeline.unet, split=True)
        self._decode_latents = watch.around("vae", self._decode)
        self._read = watch.around("text", self._encode)
        watch.network(self.scorer.model, "reward")
        self.update = Update(self)

    def _open(self) -> Any:
        pipeline: Any = registry().hook.diffrl_open_model(ref=self.settings.model.ref)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval().to(self.device, self._dtype)
        return pipeline

    def epoch(self, number: int) -> dict[str, float]:
        """Run an epoch and return the metrics that it prints; times are in the watch."""
        watch = self.watch
        samplers = self.settings.recipe.sampler.for_epoch(number)
        with watch.timing("phase/sampling"):
            batches, jobs, text = self._collect(samplers.steps)
        with watch.timing("phase/scoring"):
            scores = [[torch.stack([r.result() for r in q], 1) for q in job] for job in jobs]
        with watch.timing("phase/estimating"):
            samples, dense = self._joined(batches, scores)
            advantages = self.advantages(dense, text)
        for own, name in enumerate(("advantages1", "advantages2")):
            samples[name] = torch.as_tensor(advantages[own]).to(self.device)
        with watch.timing("phase/updating"):
            info = self.update(samples, samplers.steps)
        with watch.timing("phase/saving"):
            self._save(batches[-1][0].pictures[-1], number)
        return {"reward": float(dense[0][:, -1].mean()), **info}

    def _collect(self, steps: int) -> tuple[list[Any], list[Any], list[str]]:
        """Return the pairs of every batch, the scores that are on their way, and the prompts."""
        pairs = self.settings.train.trajectories // 2
        batches, jobs, every = [], [], []
        for start in range(0, pairs, PROMPTS_AT_ONCE):
            count = min(PROMPTS_AT_ONCE, pairs - start)
            text = [random.choice(self._prompts) for _ in range(count)]
            cond = self._read(text)
            one = self.sample(cond, steps, None)
            two = self.sample(cond, steps, one.latents[:, 0])
            batches.append((one, two, cond))
            jobs.append(self._submit(one, two, text))
            every += text
        return batches, jobs, every

    @torch.no_grad()
    def sample(self, cond: Tensor, steps: int, first: Tensor | None) -> Sampled:
        """Return one trajectory of each prompt, and the pictures of three of its steps."""
        unet, vae = self.pipeline.unet, self._decode_latents
        side = self.settings.model.size or unet.config.sample_size * self.pipeline.vae_scale_factor
        shape = (len(cond), unet.config.in_channels, *[side // self.pipeline.vae_scale_factor] * 2)
        x = first
        if x is None:
            x = torch.randn(shape, dtype=self._dtype, device=self.device)
        self.schedule.set_timesteps(steps, device=self.device)
        states, clean, log_probs, pictures = [x], [], [], []
        for k, t in enumerate(self.schedule.timesteps):
            output = self._unet(x, t, cond, return_dict=False)[0]
            x, x0, log_prob = self.step(output, t, x, steps)
            states.append(x)
            clean.append(x0)
            log_probs.append(log_prob)
            if k in (0, steps - 1):
                pictures.append(vae(x0))
        x0_hat = torch.stack(clean, 1)
        anchor, alike = anchored(x0_hat)
        rows = torch.arange(len(cond), device=self.device)
        pictures.insert(1, vae(x0_hat[rows, anchor]))
        path = torch.stack(states, 1)
        return Sampled(
            path[:, :-1], path[:, 1:], torch.stack(log_probs, 1), pictures, anchor, alike
        )

    def step(self, output: Tensor, t: Tensor, x: Tensor, steps: int, given: Any = None) -> Any:
        """Return a denoising step of this model's noise schedule."""
        kind = self.schedule.config.prediction_type
        return ddim_step(self.table, steps, kind, output, t, x, given)

    def _encode(self, text: Sequence[str]) -> Tensor:
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            list(text), padding="max_length", truncation=True, return_tensors="pt",
            max_length=tokenizer.model_max_length,
        )  # fmt: skip
        with torch.no_grad():
            return encoder(tokens.input_ids.to(self.device))[0]

    @torch.no_grad()
    def _decode(self, x0: Tensor) -> Tensor:
        vae = self.pipeline.vae
        pictures = vae.decode(x0 / vae.config.scaling_factor, return_dict=False)[0]
        return (pictures / 2 + 0.5).clamp(0, 1)

    def _submit(self, one: Sampled, two: Sampled, text: list[str]) -> list[list[Future[Tensor]]]:
        """Ask for the scores of the first, anchor and last pictures; each call is of both rows."""
        asked = []
        for q in range(3):
            both = torch.cat([one.pictures[q], two.pictures[q]])
            asked.append(self._score(both, text * 2))
        return [[Half(a, own, len(text)) for a in asked] for own in (0, 1)]  # pyright: ignore

    def _score(self, pictures: Tensor, text: list[str]) -> Future[Tensor]:
        if self._pool is not None:
            return self._pool.submit(self.scorer, pictures, text)
        done: Future[Tensor] = Future()
        with self.watch.timing("phase/scoring-inside"):
            done.set_result(self.scorer(pictures, text))
        return done

    def _joined(self, batches: list[Any], scores: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Return what is trained on, of all batches, and the dense rewards of both trajectories."""
        samples: dict[str, Any] = {"cond": torch.cat([cond for _, _, cond in batches])}
        dense = []
        for own in (0, 1):
            mine = [batch[own] for batch in batches]
            for name in ("latents", "next_latents", "log_probs"):
                samples[f"{name}{own + 1}"] = torch.cat([getattr(one, name) for one in mine])
            rewards = [
                dense_rewards(score[own], one.alike, one.anchor)
                for one, score in zip(mine, scores, strict=True)
            ]
            dense.append(torch.cat(rewards))
        return samples, dense

    def advantages(self, dense: Sequence[Tensor], text: Sequence[str]) -> list[np.ndarray]:
        """Return the advantages of both trajectories of every pair."""
        together = torch.cat(list(dense)).cpu().numpy()
        total = returns_of(together, self.settings.recipe.advantage_estimator.gamma or 0.0)
        return np.split(self.tracker.update([*text, *text], total), 2)

    def _save(self, pictures: Tensor, number: int) -> None:
        """Write the last batch's pictures as JPEG, and a checkpoint in place of the last."""
        for i, one in enumerate(pictures):
            levels = (one.float().cpu().numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
            picture = Image.fromarray(levels).resize((JPEG_SIDE, JPEG_SIDE))
            picture.save(self._folder / f"{i}.jpg")
        state = {
            "weights": {n: a.state_dict() for n, a in self.adapters.items()},
            "optimizer": self.update.optimizer.state_dict(),
            "random": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
            "tracker": self.tracker.kept,
            "epoch": number,
        }
        torch.save(state, self._folder / "state.pt")


class Half:
    """The scores of one trajectory, from a call on both."""

    def __init__(self, both: Future[Tensor], own: int, count: int) -> None:
        self._both, self._rows = both, slice(own * count, (own + 1) * count)

    def result(self) -> Tensor:
        """Wait for them."""
        return self._both.result()[self._rows]

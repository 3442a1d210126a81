"""Everything a run consists of, built from its settings."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from diffrl.adapters import attach_lora, train_all
from diffrl.builtin.references import recording
from diffrl.errors import SettingsError
from diffrl.events import Noticed
from diffrl.heap import reuse_freed_memory
from diffrl.judge import WeightedJudge
from diffrl.pipeline import ddim_schedule, decoder, encoder, latent_encoder
from diffrl.policy import UNetPolicy
from diffrl.scoring import ScoredBy
from diffrl.settings import Settings
from diffrl.speed.fitting import Pieces
from diffrl.speed.formats import DTYPES
from diffrl.speed.memory import put_text_encoder_away
from diffrl.speed.sharding import split
from diffrl.tensors import Float, Generator, Tensor
from diffrl.trainer.agreement import by_all
from diffrl.trainer.checkpoint import Position
from diffrl.trainer.opening import open_model
from diffrl.trainer.ranks import Ranks, log_into
from diffrl.trainer.scorers import load_rewards
from diffrl.trainer.speed import adamw, ready
from diffrl.types import Memory

if TYPE_CHECKING:
    from accelerate import Accelerator


PENDING = "pending/"
"""Before the metrics, in a checkpoint, of an epoch whose evaluation is still to be made."""


BAD_STEPS = "bad-steps"
"""What a checkpoint calls the number of optimizer steps in a row that were skipped."""


PROMPTS = "prompts"
"""What a checkpoint calls the digest of what is trained on: a file of that name may change."""


@dataclass
class Session:
    """A run in progress: its parts, and what changes from epoch to epoch."""

    settings: Settings
    folder: Path
    ranks: Ranks
    pipeline: Any
    policy: UNetPolicy
    judge: WeightedJudge
    rewards: tuple[ScoredBy, ...]
    watched: tuple[ScoredBy, ...]
    prompts: tuple[str, ...]
    eval_prompts: tuple[str, ...]
    rng: Generator
    pieces: Pieces
    sources: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    memory: Memory = field(default_factory=Memory)
    progress: dict[str, float] = field(default_factory=lambda: {"samples": 0.0, "seconds": 0.0})
    pending: dict[str, float] = field(default_factory=dict)
    watch: dict[str, float] = field(default_factory=dict)
    saved: int = 0
    told: set[str] = field(default_factory=set)
    checked: bool = False
    noted: list[Noticed] = field(default_factory=list)
    starting: float | None = None

    def go_on(self, at: Position) -> None:
        """Take over what a checkpoint holds; metrics of an epoch not yet evaluated are pending."""
        self.epoch = self.saved = at.epoch
        self.memory, self.watch = at.memory, dict(at.watch)
        if self.watch.pop(PROMPTS, now := self._digest()) != now:
            said = "the prompts are others than those of the checkpoint: the same draws pick others"
            self.noted.append(Noticed(at.epoch, "run", "prompts", said, "noted"))
        self.ranks.bad_steps.go_back(int(self.watch.get(BAD_STEPS, 0)))
        self.pieces.go_on(self.watch)
        self.progress = {k: v for k, v in at.progress.items() if not k.startswith(PENDING)}
        told = {k: v for k, v in at.progress.items() if k.startswith(PENDING)}
        self.pending = {k.removeprefix(PENDING): v for k, v in told.items()}

    def position(self) -> Position:
        """Return what a checkpoint is to hold."""
        pending = {f"{PENDING}{k}": v for k, v in self.pending.items()}
        watch = {**self.watch, BAD_STEPS: float(self.ranks.bad_steps.now), **self.pieces.found()}
        watch[PROMPTS] = self._digest()
        return Position(self.epoch, self.memory, {**self.progress, **pending}, watch)

    def _digest(self) -> float:
        """Return a digest of the prompts, as a whole number that a float holds."""
        return float(int(sha256("\0".join(self.prompts).encode()).hexdigest()[:12], 16))

    def decode(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h8 w8"]:
        """Return pictures in [0, 1]."""
        return decoder(self.pipeline.vae)(x0)


def build(
    settings: Settings, made: Accelerator, folder: Path, prompts: tuple[tuple[str, ...], ...]
) -> Session:
    """Load the models and put the parts together."""
    quiet()
    log_into(folder, made)
    model, train = settings.model, settings.train
    if made.device.type == "cpu":
        reuse_freed_memory()
    ranks = Ranks(made, settings.optimizer.max_grad_norm)
    drops = train.bad_scores == "drop"
    groups = train.trajectories // max(1, settings.recipe.sampler.group)
    if groups < ranks.count:
        raise SettingsError(
            [f"train.trajectories = {train.trajectories}: makes {groups} group(s) for "
             f"{ranks.count} processes; expected at least one for each"]
        )  # fmt: skip
    seed = train.seed + made.process_index
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    with recording() as sources:
        half, full = DTYPES[model.precision], settings.adapter.kind == "full"
        unet = torch.float32 if full else half
        pipeline = by_all(made, lambda: open_pipeline(model.ref, made.device, half, unet))
        policy = build_policy(settings, ranks, pipeline, seed)
        device = str(made.device)
        rewards, watched = by_all(made, lambda: load_rewards(settings, device, prompts[1]))
    if settings.speed.low_memory:
        put_text_encoder_away(pipeline, policy, [*prompts[0], *prompts[1]])
    sizes = (train.sample_batch, train.micro_batch, train.decode_batch)
    pieces = Pieces.of(*sizes, made.device.type, ranks.in_step)
    return Session(
        settings=settings,
        folder=folder,
        ranks=ranks,
        pipeline=pipeline,
        policy=policy,
        judge=WeightedJudge(decoder(pipeline.vae), rewards, pieces.decode, drops),
        rewards=rewards,
        watched=rewards + watched,
        prompts=prompts[0],
        eval_prompts=prompts[1],
        rng=torch.Generator().manual_seed(train.seed),
        pieces=pieces,
        sources=sources,
    )


def open_pipeline(
    ref: str, device: torch.device, dtype: torch.dtype, unet: torch.dtype | None = None
) -> Any:
    """Return a frozen diffusers pipeline on a device; `unet`: its type, if it is another.

    Weights that are trained are in fp32, and must not have been rounded on their way there.
    """
    pipeline = open_model(ref)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
        part.eval()
        part.to(device, unet or dtype if part is pipeline.unet else dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_policy(settings: Settings, ranks: Ranks, pipeline: Any, seed: int) -> UNetPolicy:
    """Attach what is trained to the UNet, make its optimizer, and wrap both."""
    unet, adapter = pipeline.unet, settings.adapter
    if adapter.kind == "lora":
        attach_lora(unet, adapter.rank, adapter.alpha, settings.train.seed)
    else:
        train_all(unet)
    ready(pipeline, settings.speed)
    if (kind := settings.speed.shard) != "off" and ranks.count > 1:
        split(unet, kind)
    call = ranks.prepare(unet, adamw(unet, settings.optimizer))
    model, speed = settings.model, settings.speed
    once = settings.deduplicates(ranks.accelerator.device.type)
    return policy_of(
        pipeline, call, model.size, model.guidance, seed, speed.cache_text, speed.merge, once
    )


def refuse_odd_side(side: int | None, factor: int) -> None:
    """Refuse a side of pictures, in pixels, that a VAE cannot divide by its factor.

    Raises:
        SettingsError: with the nearest that it can.
    """
    if side and side % factor:
        near = max(1, round(side / factor)) * factor
        raise SettingsError([f"model.size = {side}: expected a multiple of {factor}, as {near} is"])


def policy_of(
    pipeline: Any,
    call: Callable[..., Any],
    size: int | None,
    guidance: float,
    seed: int = 0,
    cache_text: bool = True,
    merge: bool = False,
    deduplicate: bool = False,
) -> UNetPolicy:
    """Return the policy of a pipeline; `call` is its UNet as the forward pass uses it."""
    unet = pipeline.unet
    factor = pipeline.vae_scale_factor
    side = size or unet.config.sample_size * factor
    refuse_odd_side(side, factor)
    return UNetPolicy(
        unet=unet,
        call=call,
        encode=encoder(pipeline),
        to_latent=latent_encoder(pipeline.vae, side),
        scheduler=ddim_schedule(pipeline.scheduler.config),
        size=side // factor,
        guidance=guidance,
        seed=seed,
        cache_text=cache_text,
        merge=merge,
        deduplicate=deduplicate,
    )


def quiet() -> None:
    """Keep the chatter of libraries out of the live view."""
    import transformers
    from diffusers.utils import logging as diffusers_logging

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="diffusers|transformers|peft")

"""Everything about a run that is not a stage of its recipe, as frozen sections.

Every field is reached as `section.field` from presets, `--config` files and `--set`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from diffrl.settings.section import Section
from diffrl.settings.speed import SpeedSettings

Action = Literal["off", "warn", "slow", "rollback", "stop"]
"""What a watchdog does, from nothing to everything."""

RULES = ("held_out", "diversity", "sharpness", "kl", "grad_norm")
"""Rules of the watchdog, which are also the names of their limits."""

RuleAction = Annotated[str, Field(pattern=rf"^({'|'.join(RULES)})=({'|'.join(get_args(Action))})$")]
"""An action for a single rule."""


class ModelSettings(Section):
    """Which diffusion model is trained, and at what size and precision."""

    ref: str = Field(
        description="Hub id, id@revision, folder of a diffusers pipeline, or bundled:…"
    )
    size: Annotated[int, Field(ge=8)] | None = Field(
        None,
        description="Side of the pictures in pixels; default: what the model was trained at.",
    )
    guidance: NonNegativeFloat = Field(
        1.0, description="Classifier-free guidance in sampling and training; 1 or less is off."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of the frozen weights and the forward pass; adapters stay in fp32."
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:<number> or mps.")


class AdapterSettings(Section):
    """What is trained."""

    kind: Literal["lora", "full"] = Field(
        "lora", description="lora: low-rank adapters on attention; full: every weight of the UNet."
    )
    rank: PositiveInt = Field(4, description="Rank of the adapters.")
    alpha: PositiveFloat = Field(4.0, description="Adapters are scaled by alpha / rank.")


class OptimizerSettings(Section):
    """AdamW and the gradient-norm clip."""

    lr: PositiveFloat = Field(3e-4, description="Learning rate of the first epoch.")
    lr_decay: PositiveFloat = Field(
        1.0, le=1, description="Factor on the learning rate after each epoch; 1 keeps it constant."
    )
    beta1: NonNegativeFloat = Field(0.9, lt=1, description="Decay of the first moment.")
    beta2: NonNegativeFloat = Field(0.999, lt=1, description="Decay of the second moment.")
    eps: PositiveFloat = Field(1e-8, description="Added to the root of the second moment.")
    weight_decay: NonNegativeFloat = Field(1e-4, description="Decoupled weight decay.")
    max_grad_norm: PositiveFloat = Field(1.0, description="Gradient norm is clipped to this.")
    fused: Literal["auto", "on", "off"] = Field(
        "auto", description="All weights in one kernel; auto: on a CPU and with CUDA."
    )
    bad_steps: PositiveInt = Field(
        20,
        description="Steps whose gradient is not finite are skipped; after an epoch with so "
        "many in a row the run saves and stops.",
    )


class TrainSettings(Section):
    """How much is sampled, and in pieces of what size.

    The sizes of pieces change results by rounding only.
    """

    epochs: PositiveInt = Field(100, description="Rounds of sampling, scoring and updating.")
    trajectories: PositiveInt = Field(
        64, description="Pictures sampled per epoch by all processes together, whole groups."
    )
    sample_batch: NonNegativeInt = Field(
        16,
        description="Trajectories that a process samples in one call; 0: as many as a GPU holds, "
        "16 on a CPU.",
    )
    micro_batch: NonNegativeInt = Field(
        8,
        description="Tuples of rows in one backward pass; memory only, same gradient; 0: as many "
        "as a GPU holds, 8 on a CPU.",
    )
    decode_batch: NonNegativeInt = Field(
        16,
        description="Latents decoded and scored in one call; 0: as many as a GPU holds, 16 on a "
        "CPU.",
    )
    overlap: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether one piece is scored while the next is sampled; auto: on a GPU unless "
        "speed.compile is on, and where a reward is served.",
    )
    bad_scores: Literal["stop", "drop"] = Field(
        "stop",
        description="Where a reward fails or is not finite: the run saves and stops, or the "
        "picture's group is left out.",
    )
    prompts: str = Field(
        "animals",
        description="animals, unseen, a file with one prompt a line, or a .jsonl of preferences.",
    )
    seed: NonNegativeInt = Field(
        42, le=2**31 - 1, description="Seed of all randomness, in any number of processes."
    )
    track: tuple[str, ...] = Field(
        ("tensorboard",),
        description="Trackers that are told metrics and pictures: tensorboard, wandb and others.",
    )


class EvalSettings(Section):
    """Pictures on fixed seeds at the start, every few epochs and the end."""

    every: NonNegativeInt = Field(25, description="Epochs between evaluations; 0: start and end.")
    steps: tuple[PositiveInt, ...] = Field(
        (1, 2, 4, 8), min_length=1, description="Numbers of denoising steps."
    )
    images: PositiveInt = Field(
        90, description="Pictures per number of steps, prompts in turn, always the same noise."
    )
    shown: PositiveInt = Field(12, description="How many of them the image grids show.")
    watch: tuple[str, ...] = Field((), description="Rewards to score with but not to train on.")
    eta: NonNegativeFloat = Field(1.0, le=1, description="Noise of the sampler: 1 is ancestral.")
    seed: NonNegativeInt = Field(1234, le=2**31 - 1, description="Seed of fixed evaluation noise.")
    prompts: str | None = Field(
        None, description="As train.prompts, which are taken where it is none; some presets set it."
    )


class CheckpointSettings(Section):
    """When the trainer's state is saved."""

    every: PositiveInt = Field(10, description="Epochs between checkpoints; the last always saves.")
    keep: NonNegativeInt = Field(0, description="How many newest checkpoints stay; 0: all.")
    best: Annotated[str, Field(pattern=r"^-?[a-z]+(/[A-Za-z0-9_.-]+)+$")] | None = Field(
        None,
        description="Metric, as eval/pickscore/4-step, whose best checkpoint stays, too; with a "
        "minus before it less is better.",
    )


class WatchdogSettings(Section):
    """What is watched for collapse and reward hacking, and what is done about it."""

    action: Action = Field(
        "warn",
        description="off; warn; slow: lower the learning rate; rollback: to the last good "
        "checkpoint, and slower; stop: there.",
    )
    rules: tuple[RuleAction, ...] = Field(
        (), description="Other actions for single rules: held_out=stop, grad_norm=slow and so on."
    )
    held_out: PositiveFloat | None = Field(
        0.5,
        description="How far a reward that is only watched may fall below its best, in standard "
        "deviations over pictures.",
    )
    diversity: PositiveFloat | None = Field(
        0.5, lt=1, description="Share of the diversity before training that must be left."
    )
    sharpness: PositiveFloat | None = Field(
        3.0, gt=1, description="Factor by which sharpness may rise or fall."
    )
    kl: PositiveFloat | None = Field(
        None, description="Most KL to the base model, in nats per latent element."
    )
    grad_norm: PositiveFloat | None = Field(
        20.0,
        gt=1,
        description="An epoch's gradient norm over the median of the last 50 "
        "with as many denoising steps.",
    )
    patience: PositiveInt = Field(
        1, description="Evaluations in a row that must break a rule before anything is done."
    )
    slow_by: PositiveFloat = Field(
        0.5, lt=1, description="Factor on the learning rate of slow and rollback."
    )
    rollbacks: NonNegativeInt = Field(
        2, description="How often the run goes back; the next time it stops."
    )

    def action_of(self, rule: str) -> str:
        """Return what is done where a rule is broken."""
        if self.action == "off":
            return "off"
        return dict(one.split("=", 1) for one in self.rules).get(rule, self.action)

    @property
    def goes_back(self) -> bool:
        """Whether a rule may send the run back, so that good checkpoints are needed."""
        return bool({"rollback", "stop"} & {self.action_of(rule) for rule in RULES})


SECTIONS: dict[str, type[Section]] = {
    "model": ModelSettings,
    "adapter": AdapterSettings,
    "optimizer": OptimizerSettings,
    "train": TrainSettings,
    "eval": EvalSettings,
    "checkpoint": CheckpointSettings,
    "watchdog": WatchdogSettings,
    "speed": SpeedSettings,
}

"""What launchers and DeepSpeed configurations ask to be split, done by PyTorch's FSDP2."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffrl.errors import SettingsError, one_line
from diffrl.paths import there
from diffrl.settings import Settings

KINDS = ("off", "gradients", "weights")
STAGES = {0: "off", 1: "gradients", 2: "gradients", 3: "weights"}
"""By the stage of ZeRO. The first would split the optimizer alone; gradients come with it."""

STRATEGIES = {
    "FULL_SHARD": "weights", "SHARD_GRAD_OP": "gradients", "NO_SHARD": "off",
    "TRUE": "weights", "FALSE": "gradients", "NO_RESHARD": "gradients",
}  # fmt: skip
"""By what accelerate hands on of FSDP 1 (`FSDP_SHARDING_STRATEGY`) and 2 (`…_AFTER_FORWARD`)."""

SIZES = {
    "train_batch_size": None,
    "train_micro_batch_size_per_gpu": None,
    "gradient_accumulation_steps": 1,
}
"""Sizes that diffrl's settings decide, and what of a DeepSpeed configuration says nothing of it."""

USES = {name: f"ACCELERATE_USE_{name}" for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM")}
"""How `accelerate launch` says which engine it was asked for."""


@dataclass(frozen=True)
class Asked:
    """What somebody asks for.

    Args:
        kind: of `KINDS`.
        problems: one line for each thing that cannot be had.
    """

    kind: str
    problems: tuple[str, ...] = ()


def settled(settings: Settings, environ: MutableMapping[str, str]) -> Settings:
    """Return settings whose `speed.shard` is one of `KINDS`, whoever said it.

    A launcher's wish counts where settings say nothing, and is taken out of the environment, so
    that accelerate starts plain processes.

    Raises:
        SettingsError: if something is asked for that cannot be had.
    """
    said = settings.speed.shard
    asked = Asked(said) if said in KINDS else of_file(there(said) or Path(said), settings)
    launched = of_launcher(environ, settings)
    for name in USES.values():
        environ.pop(name, None)
    if launched is not None:
        asked = Asked(launched.kind if said == "off" else asked.kind,
                      (*asked.problems, *launched.problems))  # fmt: skip
    if asked.problems:
        raise SettingsError(list(asked.problems))
    if asked.kind == said:
        return settings
    return replace(settings, speed=settings.speed.model_copy(update={"shard": asked.kind}))


def unsplit(settings: Settings) -> Settings:
    """Return settings with which every process holds all weights."""
    return replace(settings, speed=settings.speed.model_copy(update={"shard": "off"}))


def of_launcher(environ: Mapping[str, str], settings: Settings) -> Asked | None:
    """Return what `accelerate launch` was asked for, or None."""
    used = [name for name, key in USES.items() if environ.get(key, "").lower() == "true"]
    if not used:
        return None
    if used[0] == "MEGATRON_LM":
        return Asked("off", ("accelerate's engine MEGATRON_LM is not one of diffrl's; expected "
                             "plain processes, FSDP or DeepSpeed",))  # fmt: skip
    if used[0] == "DEEPSPEED":
        return _of_deepspeed_flags(environ, settings)
    key = "FSDP_RESHARD_AFTER_FORWARD"
    key = key if environ.get("FSDP_VERSION") == "2" else "FSDP_SHARDING_STRATEGY"
    wish = environ.get(key, "FULL_SHARD").upper()
    problems = []
    if wish not in STRATEGIES:
        problems.append(f"{key} = {wish}: expected one of {', '.join(STRATEGIES)}")
    if environ.get("FSDP_OFFLOAD_PARAMS", "").lower() == "true":
        problems.append(_offloaded("FSDP_OFFLOAD_PARAMS = true"))
    return Asked(STRATEGIES.get(wish, "off"), tuple(problems))


def of_file(path: Path, settings: Settings) -> Asked:
    """Return what a DeepSpeed configuration asks for."""
    try:
        said = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else one_line(str(error))[:160]
        return Asked("off", (f"speed.shard = {str(path)!r}: expected {', '.join(KINDS)} or a "
                             f"DeepSpeed configuration ({why})",))  # fmt: skip
    if not isinstance(said, dict):
        return Asked("off", (f"{path}: expected a JSON object, as DeepSpeed's configurations are",))
    needed = {"zero_optimization": "a stage", "bf16": "enabled", "fp16": "enabled"}
    odd = [n for n in needed if not isinstance(said.get(n, {}), dict)]
    if odd:
        lines = (f"{path}: {n}: expected an object with {needed[n]}" for n in odd)
        return Asked("off", tuple(lines))
    zero = said.get("zero_optimization", {})
    stage = zero.get("stage", 0)
    kind = STAGES.get(stage) if isinstance(stage, int) else None
    problems = [f"{path}: {one}" for one in _unlike(said, settings)]
    if kind is None:
        problems.append(f"{path}: zero_optimization.stage = {stage!r}: expected 0, 1, 2 or 3")
    for part in ("optimizer", "param"):
        held = zero.get(f"offload_{part}")
        place = held.get("device") if isinstance(held, dict) else None
        if place not in ("none", None):
            where = f"{path}: zero_optimization.offload_{part}.device = {place!r}"
            problems.append(_offloaded(where))
    return Asked(kind or "off", tuple(problems))


def _of_deepspeed_flags(environ: Mapping[str, str], settings: Settings) -> Asked:
    file = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if file.lower() != "none":
        return of_file(there(file) or Path(file), settings)
    stage = environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    keys = [f"ACCELERATE_DEEPSPEED_OFFLOAD_{part}_DEVICE" for part in ("OPTIMIZER", "PARAM")]
    problems = [
        _offloaded(f"{key} = {environ[key]}")
        for key in keys
        if environ.get(key, "none").lower() != "none"
    ]
    clip: Any = environ.get("ACCELERATE_GRADIENT_CLIPPING", "none").lower()
    if clip not in ("none", "auto"):
        with contextlib.suppress(ValueError):  # of no number, which is told as it is
            clip = float(clip)
        asked = {"gradient_clipping": clip}
        problems += [f"ACCELERATE_GRADIENT_CLIPPING: {line}" for line in _unlike(asked, settings)]
    pieces = environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if pieces.lower() not in ("1", "none", "auto"):
        problems.append(
            f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS = {pieces}: expected 1; train.micro_batch and "
            f"the update scheduler decide it"
        )
    known = {str(number): kind for number, kind in STAGES.items()}
    if stage not in known:
        problems.append(f"ACCELERATE_DEEPSPEED_ZERO_STAGE = {stage}: expected 0, 1, 2 or 3")
    return Asked(known.get(stage, "off"), tuple(problems))


def _offloaded(said: str) -> str:
    return f"{said}: diffrl keeps what processes split on their devices; expected none"


def _unlike(said: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yield what a configuration says otherwise than the settings, which decide it."""
    for section in ("optimizer", "scheduler"):
        if section in said:
            yield f"{section}: expected none; diffrl's own is set by optimizer.lr and the like"
    on = [name for name in ("bf16", "fp16") if said.get(name, {}).get("enabled") is True]
    if on and on[0] != settings.model.precision:
        yield f"{on[0]}.enabled: the run is in {settings.model.precision}; add --precision {on[0]}"
    clip = said.get("gradient_clipping", "auto")
    if clip not in ("auto", settings.optimizer.max_grad_norm):
        yield (f"gradient_clipping = {clip}: the run has {settings.optimizer.max_grad_norm}; add "
               f"--set optimizer.max_grad_norm={clip}")  # fmt: skip
    for name in sorted(SIZES.keys() & said.keys()):
        if said[name] not in ("auto", None, SIZES[name]):
            yield f"{name} = {said[name]}: expected auto; settings of diffrl decide it"

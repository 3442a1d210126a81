"""Settings that are right one by one and wrong together."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from diffrl.errors import DiffrlError
from diffrl.settings.rewards import read_spec
from diffrl.settings.target import Target

SCHEDULE, LENGTH = 1000, "the length of the noise schedule"
BOUNDS = {
    "ge": math.ceil,
    "gt": lambda bound: math.floor(bound) + 1,
    "le": math.floor,
    "lt": lambda bound: math.ceil(bound) - 1,
}
"""What pydantic calls the bounds of a number, and the last whole one that each allows."""
DEVICES = r"auto|cpu|mps|cuda(:\d+)?"


def problems(targets: Mapping[str, Target], built: Mapping[str, Any]) -> list[str]:
    """Return what keeps values from working together; `built` holds None where one is wrong."""
    found: list[str] = []
    if (model := built.get("model")) is not None:
        found += _device(targets["model"], model.device, model.precision)
    sampler, train = built.get("sampler"), built.get("train")
    if sampler is not None and max(sampler.lengths, default=sampler.steps) > SCHEDULE:
        expected = f"input should be at most {SCHEDULE}, {LENGTH}"
        field = "lengths" if sampler.lengths else "steps"
        found.append(targets["sampler"].problem(field, expected))
    if sampler is not None and train is not None and sampler.group >= 1:
        if train.trajectories % sampler.group:
            expected = f"input should be a multiple of sampler.group, which is {sampler.group}"
            found.append(targets["train"].problem("trajectories", expected))
    if built.get("eval") is not None:
        found += _evaluations(targets["eval"], built["eval"], sampler)
        found += _unseen(targets["watchdog"], built.get("watchdog"), built["eval"], sampler)
    watch = built["eval"].watch if built.get("eval") is not None else ()
    for spec in watch:
        try:
            weighted = read_spec(spec).weight is not None
        except DiffrlError as error:
            found.append(targets["eval"].problem("watch", str(error)))
            continue
        if weighted:
            why = f"{spec}: what is only watched has no weight"
            found.append(targets["eval"].problem("watch", why))
    return found


def _evaluations(target: Target, section: Any, sampler: Any) -> list[str]:
    """Return the numbers of steps that evaluations cannot have, one line each."""
    least, most, name, found = 1, SCHEDULE, "", []
    if sampler is not None:
        drawing = _drawing(sampler, section)
        (least, most), name = step_bounds(drawing), drawing.name
    if max(section.steps, default=most) > most:
        own = most < SCHEDULE
        why = f"the most steps of the sampler {name!r}" if own else LENGTH
        found.append(target.problem("steps", f"input should be at most {most}, {why}"))
    if min(section.steps, default=least) < least:
        why = f"the fewest steps of the sampler {name!r}"
        found.append(target.problem("steps", f"input should be at least {least}, {why}"))
    return found


def _unseen(target: Target, watchdog: Any, section: Any, sampler: Any) -> list[str]:
    """Return why evaluations give no KL where one is watched, a line or none."""
    if None in (watchdog, sampler) or not watchdog.kl or watchdog.action_of("kl") == "off":
        return []
    drawing = _drawing(sampler, section)
    if "path" not in drawing.gives:
        why = f"the sampler {drawing.name!r}, which draws them, keeps no path"
    elif section.eta == 0 and "eta" in type(drawing).model_fields:
        why = "their steps have no noise; raise eval.eta above 0"
    else:
        return []
    return [target.problem("kl", f"evaluations give no KL to the base model, as {why}")]


def _drawing(sampler: Any, section: Any) -> Any:
    """Return what draws for evaluations; the sampler itself where it has no say in it."""
    try:
        return sampler.for_evaluation(max(section.steps, default=1), section.eta)
    except Exception:  # of its bounds, which are told below, or of its own
        return sampler


def step_bounds(sampler: Any) -> tuple[int, int]:
    """Return the fewest and the most steps that a sampler's own setting takes."""
    field = type(sampler).model_fields.get("steps")
    every = field.metadata if field else ()
    told = [(name, getattr(one, name, None)) for one in every for name in BOUNDS]
    whole = [(name, BOUNDS[name](bound)) for name, bound in told if bound is not None]
    least = max([1, *(bound for name, bound in whole if name in ("ge", "gt"))])
    return least, min([SCHEDULE, *(bound for name, bound in whole if name in ("le", "lt"))])


def _device(model: Target, device: str, precision: str) -> list[str]:
    if not re.fullmatch(DEVICES, device):
        return [model.problem("device", "input should be auto, cpu, cuda, cuda:<number> or mps")]
    if precision == "fp16" and device == "cpu":
        expected = "half precision does not train on model.device 'cpu'; use fp32 or bf16"
        return [model.problem("precision", expected)]
    return []

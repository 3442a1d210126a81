"""Settings that are right one by one and wrong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffrl.errors import DiffrlError
from diffrl.settings.rewards import read_spec
from diffrl.settings.target import Target

SCHEDULE = 1000
DEVICES = r"auto|cpu|mps|cuda(:\d+)?"


def problems(targets: Mapping[str, Target], built: Mapping[str, Any]) -> list[str]:
    """Return what keeps values from working together; `built` holds None where one is wrong."""
    found: list[str] = []
    if (model := built.get("model")) is not None:
        found += _device(targets["model"], model.device, model.precision)
    sampler, train = built.get("sampler"), built.get("train")
    if sampler is not None and max(sampler.lengths, default=sampler.steps) > SCHEDULE:
        expected = f"input should be at most {SCHEDULE}, the length of the noise schedule"
        field = "lengths" if sampler.lengths else "steps"
        found.append(targets["sampler"].problem(field, expected))
    if sampler is not None and train is not None and sampler.group >= 1:
        if train.trajectories % sampler.group:
            expected = f"input should be a multiple of sampler.group, which is {sampler.group}"
            found.append(targets["train"].problem("trajectories", expected))
    if built.get("eval") is not None and (asked := max(built["eval"].steps, default=0)):
        most, why = SCHEDULE, "the length of the noise schedule"
        if sampler is not None and (own := most_steps(sampler)) < most:
            most, why = own, f"the most steps of the sampler {sampler.name!r}"
        if asked > most:
            found.append(targets["eval"].problem("steps", f"input should be at most {most}, {why}"))
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


def most_steps(sampler: Any) -> int:
    """Return the most steps that a sampler's own setting takes."""
    field = type(sampler).model_fields.get("steps")
    bounds = [b for one in (field.metadata if field else ()) if (b := getattr(one, "le", None))]
    return min([SCHEDULE, *bounds])


def _device(model: Target, device: str, precision: str) -> list[str]:
    if not re.fullmatch(DEVICES, device):
        return [model.problem("device", "input should be auto, cpu, cuda, cuda:<number> or mps")]
    if precision == "fp16" and device == "cpu":
        expected = "half precision does not train on model.device 'cpu'; use fp32 or bf16"
        return [model.problem("precision", expected)]
    return []

"""What an evaluation asks: which prompts, how many pictures and steps, of which size."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from diffrl.errors import SettingsError
from diffrl.registry import registry
from diffrl.stages import Sampler

PROMPTS = ("animals", "unseen")


@dataclass(frozen=True)
class Protocol:
    """The question that every judged model is asked, so that answers can be paired.

    Args:
        prompts: by the name of their set: `animals`, `unseen`, or a file.
        steps: numbers of denoising steps.
        seeds: pictures of each prompt.
        seed: from which all noise is derived.
        sampler: that draws.
        eta: noise of the sampler, where it has that field.
        size: side of the pictures in pixels; None: the model's own.
        guidance: classifier-free guidance; 1 is off.
        precision: of the networks.
    """

    prompts: dict[str, tuple[str, ...]]
    steps: tuple[int, ...]
    seeds: int
    seed: int
    sampler: str
    eta: float
    size: int | None
    guidance: float
    precision: str = "fp32"

    def record(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {**asdict(self), "prompts": {k: list(v) for k, v in self.prompts.items()}}

    def text(self, name: str) -> list[str]:
        """Return the prompt of every picture of a set: all prompts once, then again."""
        return list(self.prompts[name]) * self.seeds


def sampler_called(name: str) -> Sampler:
    """Return a sampler with its defaults.

    Raises:
        SettingsError: if it must be told more than that.
    """
    try:
        return registry().get("sampler", name).value()
    except ValidationError as error:
        needed = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise SettingsError(
            [f"--sampler {name}: cannot draw by itself, since it must be told {needed}"]
        ) from None

"""What an evaluation asks: which prompts, how many pictures and steps, which rewards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffrl.errors import CheckpointMissing, DiffrlError, SettingsError
from diffrl.registry import registry
from diffrl.scoring import ScoredBy
from diffrl.settings.rewards import chosen
from diffrl.stages import Reward, Sampler

STEPS = (1, 2, 4, 8, 16, 50)
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
    """

    prompts: dict[str, tuple[str, ...]]
    steps: tuple[int, ...]
    seeds: int
    seed: int
    sampler: str
    eta: float
    size: int | None
    guidance: float

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
    except ValueError as error:
        raise SettingsError([f"--sampler {name}: cannot draw by itself ({error})"]) from None


def open_rewards(
    named: Sequence[str],
    preset: str,
    sets: Sequence[str],
    own: Sequence[Reward],
    prompts: Sequence[str],
    device: str,
) -> tuple[list[ScoredBy], list[str]]:
    """Return the rewards to score with, loaded, and why others are left out.

    Args:
        named: rewards that were asked for; none: all that can be had.
        preset: that says where their weights are.
        sets: `--set` texts about them.
        own: those of a judged run, with the run's settings.
        prompts: that they must be able to score.
        device: to score on.

    Raises:
        SettingsError: if one that was asked for cannot be had.
    """
    if named:
        rewards = [chosen(spec, preset, sets) for spec in named]
        if problems := [line for r in rewards for line in _unusable(r, prompts)]:
            raise SettingsError(problems)
        return [ScoredBy.load(reward, device, 1.0) for reward in rewards], []
    loaded, left_out = [], []
    for reward in _available(preset, own):
        try:
            if why := _unusable(reward, prompts):
                left_out += why
            else:
                loaded.append(ScoredBy.load(reward, device, 1.0))
        except CheckpointMissing as error:
            left_out.append(f"reward {reward.name!r}: {error}")
    return loaded, left_out


def _available(preset: str, own: Sequence[Reward]) -> Iterator[Reward]:
    there = {reward.name: reward for reward in own}
    for name in registry().components("reward"):
        try:
            there.setdefault(name, chosen(name, preset, []))
        except DiffrlError:  # needs settings that no preset gives
            continue
    yield from there.values()


def _unusable(reward: Reward, prompts: Sequence[str]) -> list[str]:
    found = list(reward.problems())
    if why := reward.unfit(prompts):
        found.append(f"reward {reward.name!r} cannot score these prompts: {why}")
    return found


def embedder(preset: str, device: str) -> tuple[Any, list[str]]:
    """Return the CLIP that embeds pictures for measures, that of `clipscore`, or why there is none.

    Returns:
        An object with `image_embedding`, or None; and what to tell.
    """
    from diffrl.builtin.rewards.clip import ClipScorer

    try:
        ref = chosen("clipscore", preset, []).model_dump().get("checkpoint")
        return ClipScorer.load(str(ref), device), []
    except DiffrlError as error:
        return None, [f"measures with CLIP: {error}"]

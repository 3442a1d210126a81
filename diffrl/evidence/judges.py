"""What looks at the pictures of an evaluation: rewards, and a CLIP for measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffrl.errors import DiffrlError, RewardError, SettingsError
from diffrl.evidence.drawing import ADVICE
from diffrl.registry import registry
from diffrl.scoring import ScoredBy
from diffrl.settings.rewards import chosen, read_spec, with_sets
from diffrl.speed.fitting import in_words
from diffrl.stages import Reward
from diffrl.tensors import Tensor

PromptSets = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Opened:
    """A reward, loaded.

    Args:
        scorer: that scores.
        settings: that it was loaded with.
        sets: names of the prompt sets that it can score.
    """

    scorer: ScoredBy
    settings: Mapping[str, Any]
    sets: frozenset[str]


@dataclass(frozen=True)
class Judges:
    """What looks at pictures.

    Args:
        rewards: loaded.
        embed: pictures to unit embeddings, or None.
        tell: is told what goes on, one line at a time.
        failures: takes where a reward failed for every picture, and why, one line each.
        unjudged: takes which model could not be judged, and why, one line each.
    """

    rewards: Sequence[Opened]
    embed: Callable[[Tensor], Tensor] | None
    tell: Callable[[str], None]
    failures: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def of(self, prompts: str) -> list[ScoredBy]:
        """Return the rewards that can score a set of prompts."""
        return [r.scorer for r in self.rewards if prompts in r.sets]


def open_rewards(
    named: Sequence[str],
    preset: str,
    sets: Sequence[str],
    own: Sequence[Reward],
    prompts: PromptSets,
    device: str,
) -> tuple[list[Opened], list[str]]:
    """Return the rewards to score with, loaded, and why others are left out.

    Args:
        named: rewards that were asked for, to which those come that know pictures of the preset
            alone; none: all that can be had.
        preset: that says where their weights are.
        sets: `--set` texts about them.
        own: those of a judged run, with the run's settings, which count more than the preset.
        prompts: by the name of their set.
        device: to score on.

    Raises:
        SettingsError: if one that was asked for cannot be had, or cannot score any set.
    """
    known = {*registry().components("reward"), *(r.name for r in own), *_names(named, own)}
    if stray := [s for s in sets if not any(_is_about(n, s, len(named) == 1) for n in known)]:
        raise SettingsError(
            [f"--set {one}: about no reward; write rewards.NAME.…" for one in stray]
        )
    if named:
        rewards = {r.name: r for r in (_asked(s, preset, sets, own) for s in named)}
        problems = [line for r in rewards.values() for line in _problems(r, prompts)]
        if problems:
            raise SettingsError(problems)
        every = _available(preset, sets, own, [])
        rewards |= {
            r.name: r
            for r in every
            if r.name not in rewards and r.preset == preset and not _problems(r, prompts)
        }
        told = [line for r in rewards.values() for line in _unfit(r, prompts)]
        try:
            return [_opened(r, prompts, device) for r in rewards.values()], told
        except RewardError as error:
            raise SettingsError([str(error)]) from error
    loaded, left_out = [], []
    for reward in _available(preset, sets, own, left_out):
        try:
            if why := _problems(reward, prompts):
                left_out += why
            else:
                left_out += _unfit(reward, prompts)
                loaded.append(_opened(reward, prompts, device))
        except DiffrlError as error:
            left_out.append(f"reward {reward.name!r}: {error}")
    return loaded, left_out


def _opened(reward: Reward, prompts: PromptSets, device: str) -> Opened:
    fit = frozenset(name for name, texts in prompts.items() if not reward.unfit(texts))
    with in_words(f"reward {reward.name!r}: memory ends in loading it", ADVICE):
        scorer = ScoredBy.load(reward, device, 1.0)
    return Opened(scorer, reward.identity(), fit)


def _asked(spec: str, preset: str, sets: Sequence[str], own: Sequence[Reward]) -> Reward:
    (name,) = _names([spec], own)
    mine = [s for s in sets if _is_about(name, s, "." not in s.partition("=")[0])]
    for reward in own:
        if reward.name == spec:
            return with_sets(reward, mine)
    return chosen(spec, preset, mine)


def _names(specs: Sequence[str], own: Sequence[Reward]) -> list[str]:
    mine = {r.name for r in own}
    return [spec if spec in mine else read_spec(spec).name for spec in specs]


def _is_about(name: str, text: str, bare: bool) -> bool:
    """Return whether a `--set` text is about a reward; `bare`: whether it may lack the name."""
    key = text.partition("=")[0]
    return key.startswith(f"rewards.{name}.") or (bare and "." not in key)


def _available(
    preset: str, sets: Sequence[str], own: Sequence[Reward], left_out: list[str]
) -> Iterator[Reward]:
    mine = {r.name for r in own}
    there = {r.name: with_sets(r, [s for s in sets if _is_about(r.name, s, False)]) for r in own}
    for name in registry().components("reward"):
        if name not in there:
            try:
                there[name] = chosen(name, preset, [s for s in sets if _is_about(name, s, False)])
            except DiffrlError as error:  # needs settings that no preset gives
                left_out.append(f"reward {name!r}: {' '.join(str(error).split())}")
    for reward in there.values():
        if reward.preset in (None, preset) or reward.name in mine:
            yield reward
        else:
            left_out.append(
                f"reward {reward.name!r}: knows pictures of the preset {reward.preset!r} alone"
            )


def _problems(reward: Reward, prompts: PromptSets) -> list[str]:
    """Return why a reward cannot be used at all."""
    found = list(reward.problems())
    unfit = [why for texts in prompts.values() if (why := reward.unfit(texts))]
    if len(unfit) == len(prompts):
        found.append(f"reward {reward.name!r} cannot score these prompts: {unfit[0]}")
    return found


def _unfit(reward: Reward, prompts: PromptSets) -> list[str]:
    """Return which sets of prompts a reward cannot score, and why, one line each."""
    each = {name: reward.unfit(texts) for name, texts in prompts.items()}
    return [f"reward {reward.name!r} for {name}: {why}" for name, why in each.items() if why]


def embedder(preset: str, device: str) -> tuple[Any, str | None, list[str]]:
    """Return the CLIP that embeds pictures for measures, that of `clipscore`, or why there is none.

    Returns:
        An object with `image_embedding` and where it comes from, or None; and what to tell.
    """
    from diffrl.builtin.rewards.clip import ClipScorer

    try:
        ref = chosen("clipscore", preset, []).model_dump().get("checkpoint")
        with in_words("memory ends in loading it", ADVICE):
            return ClipScorer.load(str(ref), device), str(ref), []
    except DiffrlError as error:
        return None, None, [f"measures with CLIP: {error}"]

"""A run's rewards: what keeps them from working, and loading them."""

from __future__ import annotations

from diffrl.errors import RewardError, SettingsError
from diffrl.scoring import ScoredBy
from diffrl.settings import Settings


def reward_problems(
    settings: Settings, opened: dict[str, tuple[str, ...]], evaluated: str
) -> list[str]:
    """Return what keeps rewards from being loaded, or from scoring the prompts."""
    trained = [w.reward for w in settings.rewards]
    lines = [line for reward in (*trained, *settings.watched) for line in reward.problems()]
    cases = [(reward, ref, "") for reward in trained for ref in opened]
    if evaluated in opened:
        hint = "; leave it out with --set eval.watch=[]"
        cases += [(reward, evaluated, hint) for reward in settings.watched]
    for reward, ref, hint in cases:
        if why := reward.unfit(opened[ref]):
            lines.append(f"reward {reward.name!r} cannot score the prompts {ref!r}: {why}{hint}")
    return lines


def load_rewards(
    settings: Settings, device: str
) -> tuple[tuple[ScoredBy, ...], tuple[ScoredBy, ...]]:
    """Return the rewards that are trained on, and those that are only watched.

    Raises:
        SettingsError: if one cannot be had, although nothing was wrong when it was looked up.
    """
    try:
        return (
            tuple(ScoredBy.load(w.reward, device, w.weight) for w in settings.rewards),
            tuple(ScoredBy.load(reward, device, 0.0) for reward in settings.watched),
        )
    except RewardError as error:
        raise SettingsError([str(error)]) from error

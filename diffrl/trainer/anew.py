"""What a run that goes on finds out anew, since it is rewarded otherwise than before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffrl.errors import DiffrlError
from diffrl.events import Noticed
from diffrl.folder import SETTINGS
from diffrl.settings import Settings
from diffrl.settings.saved import load
from diffrl.trainer.session import Session
from diffrl.types import Memory

ANEW = (
    "rewards, or how they are credited, are others than the checkpoint's, so statistics of returns "
    "begin anew"
)


def begin_anew(session: Session, start: Path) -> list[Noticed]:
    """Forget what a checkpoint knows of rewards that are others now, or are credited otherwise.

    Statistics of returns of one scale beside returns of another would make advantages of neither,
    and a watched reward would be compared with what another one scored best. Settings that cannot
    be read, since a plugin is gone, count as others. The first process decides for all.

    Returns:
        A notice, if statistics begin anew.
    """
    credit, moved = session.ranks.everyones([unlike(session.settings, start)])[0]
    for name in moved:
        for mark in ("best", "spread"):
            session.watch.pop(f"{mark}:{name}", None)
    if moved:
        session.watch.pop("row:held_out", None)
    if not credit or not session.memory.history:
        return []
    session.memory = Memory()
    return [Noticed(session.epoch, "run", "statistics", ANEW, "noted")]


def unlike(now: Settings, start: Path) -> tuple[bool, list[str]]:
    """Return whether returns are others than at a checkpoint, and the watched rewards that are."""
    try:
        past = load(start / SETTINGS)
    except DiffrlError:
        return True, [reward.name for reward in now.watched]
    before = {reward.name: reward.identity() for reward in past.watched}
    moved = [one.name for one in now.watched if before.get(one.name) != one.identity()]
    return credited(past) != credited(now), moved


def credited(settings: Settings) -> list[Any]:
    """Return what the returns of a run depend on, besides its pictures."""
    stages = (settings.recipe.reward_predictor, settings.recipe.advantage_estimator)
    of_stages = [(stage.name, stage.model_dump(mode="json")) for stage in stages]
    rewards = [(w.reward.name, w.weight, w.reward.identity()) for w in settings.rewards]
    return [of_stages, rewards]

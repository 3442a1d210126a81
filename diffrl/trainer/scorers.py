"""A run's rewards: what keeps them from working, and loading them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from diffrl.errors import RewardError, SettingsError
from diffrl.recipe import Recipe
from diffrl.scoring import ScoredBy
from diffrl.settings import EvalSettings, Settings
from diffrl.stages import Reward


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


def single_pictures(
    rewards: Iterable[Reward | ScoredBy], settings: EvalSettings, prompts: Sequence[str]
) -> list[str]:
    """Return why rewards that compare pictures would see single ones in evaluations, a line each.

    Args:
        rewards: that score them; of some it is only known when they are loaded.
        settings: of evaluations.
        prompts: that they take in turn; none: not known.
    """
    drawn = Counter(prompts[i % len(prompts)] for i in range(settings.images) if prompts)
    if min(drawn.values(), default=2) > 1:
        return []
    return [
        f"reward {reward.name!r} compares the pictures of a prompt, but evaluations draw "
        f"eval.images = {settings.images} for {len(prompts)} prompts, and so single ones; set "
        f"eval.images to {2 * len(prompts)} or more, or fewer prompts by eval.prompts"
        for reward in rewards
        if reward.groupwise
    ]


def load_rewards(
    settings: Settings, device: str, evaluated: Sequence[str] = ()
) -> tuple[tuple[ScoredBy, ...], tuple[ScoredBy, ...]]:
    """Return the rewards that are trained on, and those that are only watched.

    Args:
        settings: of the run.
        device: that they are loaded on.
        evaluated: the prompts of evaluations, if they are known.

    Raises:
        SettingsError: if one cannot be had, although nothing was wrong when it was looked up, or
            compares pictures that it would not be shown together.
    """
    try:
        trained = tuple(ScoredBy.load(w.reward, device, w.weight) for w in settings.rewards)
        watched = tuple(ScoredBy.load(reward, device, 0.0) for reward in settings.watched)
    except RewardError as error:
        raise SettingsError([str(error)]) from error
    asked = [one for one in trained if one.groupwise and one.weight]
    found = [line for one in asked for line in _alone(one, settings.recipe)]
    if found := [*found, *single_pictures((*trained, *watched), settings.eval, evaluated)]:
        raise SettingsError(found)
    return trained, watched


def _alone(reward: ScoredBy, recipe: Recipe) -> list[str]:
    """Return why a reward that compares pictures would see single ones, one line each."""
    compares = f"reward {reward.name!r} compares the pictures of a group, but"
    if recipe.sampler.group == 1:
        return [f"{compares} sampler.group is 1; raise it, as with --set sampler.group=4"]
    if not (predictor := recipe.reward_predictor).asks_apart:
        return []
    return [
        f"{compares} reward predictor {predictor.name!r} may ask for each at a step of its own; "
        f"set reward_predictor.anchor=fixed, if it has that, or take reward_predictor=terminal"
    ]

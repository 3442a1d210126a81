"""Everything that can be wrong with a run, found before weights load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffrl.errors import DiffrlError, SettingsError, did_you_mean, quoted
from diffrl.folder import SETTINGS, check_free, evaluation_file, read_object
from diffrl.planning.refusal import refuse_what_cannot_fit
from diffrl.settings import Settings
from diffrl.settings.saved import dump, load
from diffrl.trainer.agreement import are_many, by_all
from diffrl.trainer.opening import check_reference, open_prompts
from diffrl.trainer.ranks import accelerator, check_device
from diffrl.trainer.scorers import reward_problems, single_pictures
from diffrl.trainer.speed import speed_problems
from diffrl.trainer.trackers import tracker_problems

if TYPE_CHECKING:
    from accelerate import Accelerator

FIXED = {"model": ("ref", "size", "guidance"), "adapter": ("kind", "rank", "alpha")}
"""What a run keeps when it is continued."""


def checked(
    settings: Settings, output: Path | None, resume: Path | None, anyway: bool
) -> tuple[Accelerator, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return the accelerator of settings that can be run, and the prompts.

    Alone, what is wrong is said before anything is started. Of several processes, one may lack
    prompts, weights or a reward that the others have: they first meet, and then tell each other.

    Args:
        settings: of the run.
        output: folder that must be free, or None.
        resume: folder of the run that is continued, or None.
        anyway: whether to begin even if memory will not do.

    Raises:
        DiffrlError: naming all problems at once, in every process.
    """

    def prompts() -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = preflight(settings, output, resume)
        if not anyway:
            refuse_what_cannot_fit(settings, found[0])
        return found

    if not are_many():
        found = prompts()
        return accelerator(settings.model.device, settings.model.precision), found
    if problems := check_device(settings.model.device, settings.model.precision):
        raise SettingsError(problems)
    made = accelerator(settings.model.device, settings.model.precision)
    return made, by_all(made, prompts)


def preflight(
    settings: Settings, folder: Path | None, resume: Path | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Find everything that can be wrong before weights load; return training and eval prompts.

    Args:
        settings: of the run.
        folder: that must be free, or None.
        resume: folder of the run that is continued, or None.

    Raises:
        DiffrlError: naming all problems at once.
    """
    found: list[str] = [*check_device(settings.model.device, settings.model.precision)]
    refs = (settings.train.prompts, settings.eval.prompts or settings.train.prompts)
    opened: dict[str, tuple[str, ...]] = {}
    for ref in dict.fromkeys(refs):
        with _collecting(found):
            opened[ref] = open_prompts(ref)
    found += settings.recipe.sampler.prompt_problems(opened.get(refs[0], ()))
    found += reward_problems(settings, opened, refs[1])
    if resume is None:  # one that goes on is judged as before
        scoring = (*(one.reward for one in settings.rewards), *settings.watched)
        found += single_pictures(scoring, settings.eval, opened.get(refs[1], ()))
    found += tracker_problems(settings.train.track)
    found += speed_problems(settings)
    found += best_problems(settings)
    with _collecting(found):
        check_reference(settings.model.ref)
    with _collecting(found):
        dump(settings)  # which a run begins with writing
    if folder is not None:
        with _collecting(found):
            check_free(folder)
    if resume is not None:
        found += same_model(settings, resume)
    if found:
        raise SettingsError(list(dict.fromkeys(found)))
    return opened[refs[0]], opened[refs[1]]


def best_problems(settings: Settings) -> list[str]:
    """Return what keeps `checkpoint.best` from ever having a value, where evaluations give it."""
    best = settings.checkpoint.best
    key = (best or "").removeprefix("-")
    if not key.startswith("eval/"):
        return []
    names = [*(w.reward.name for w in settings.rewards), *(r.name for r in settings.watched)]
    known = [f"eval/{name}/{steps}-step" for name in names for steps in settings.eval.steps]
    if key in known:
        return []
    steps = ", ".join(map(str, settings.eval.steps))
    return [
        f"checkpoint.best = {best!r}: no evaluation gives that; expected eval/NAME/STEPS-step, of "
        f"{', '.join(names) or 'no reward'} in {steps} steps.{did_you_mean(key, known)}"
    ]


def same_model(settings: Settings, folder: Path) -> list[str]:
    """Return what a continued run would change although its weights depend on it."""
    before = load(folder / SETTINGS)
    return [
        f"{section}.{name} = {getattr(getattr(settings, section), name)!r}: the run in {folder} "
        f"was made with {getattr(getattr(before, section), name)!r}; leave it as it is"
        for section, names in FIXED.items()
        for name in names
        if getattr(getattr(settings, section), name) != getattr(getattr(before, section), name)
    ]


def refuse_another_past(
    settings: Settings, folder: Path, start: Path, eval_prompts: Sequence[str]
) -> None:
    """Refuse what a run that goes on from a checkpoint has decided already.

    Raises:
        SettingsError: if it is to end before the checkpoint, to have begun from another seed, or
            to be evaluated otherwise than before it.
    """
    past = load(folder / SETTINGS)
    before, asked = past.train, settings.train
    done, found = int(start.name), []
    if asked.epochs < done:
        found.append(
            f"train.epochs = {asked.epochs}: {folder} has {done} epochs already; name the total, "
            f"{done + asked.epochs} for {asked.epochs} more, or go back with --resume "
            f"{quoted(f'{folder}@EPOCH')}"
        )
    if asked.seed != before.seed:
        found.append(
            f"train.seed = {asked.seed}: the run in {folder} began with {before.seed} and goes on "
            f"with its own noise; leave it out, or begin again with --resume "
            f"{quoted(f'{folder}@0')}"
        )
    found += _another_curve(settings, past, folder, eval_prompts)
    if found:
        raise SettingsError(found)


def _another_curve(
    settings: Settings, past: Settings, folder: Path, prompts: Sequence[str]
) -> Iterator[str]:
    """Yield what would compare a run's evaluations with others of itself that are not alike."""
    advice = "leave it as it is, and judge otherwise with diffrl eval"
    if (now := settings.drawing.name) != (then := past.drawing.name):
        yield f"sampler = {now!r}: {folder} was evaluated with {then!r}; {advice}"
    for name in ("seed", "eta", "images"):
        if (now := getattr(settings.eval, name)) != (then := getattr(past.eval, name)):
            yield f"eval.{name} = {now}: {folder} was evaluated with {then}; {advice}"
    try:
        then = tuple(read_object(evaluation_file(folder, 0))["prompts"])
    except (ValueError, KeyError, TypeError):
        return  # nothing is known of them
    for number in range(min(past.eval.images, len(then))):
        if (now := prompts[number % len(prompts)]) != then[number]:
            yield (
                f"eval.prompts: picture {number + 1} would be {now!r}; {folder} was evaluated with "
                f"{then[number]!r}; {advice}"
            )
            return


@contextlib.contextmanager
def _collecting(found: list[str]) -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        found += error.problems
    except DiffrlError as error:
        found.append(str(error))

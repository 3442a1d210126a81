"""What `diffrl compare` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import typer

from diffrl.cli.columns import columns
from diffrl.errors import DiffrlError, SettingsError, one_line, quoted
from diffrl.evidence import compare as evidence
from diffrl.evidence.files import Answers
from diffrl.evidence.intervals import CLUSTERS, Estimate
from diffrl.evidence.verdicts import Verdict
from diffrl.evidence.verdicts import verdicts as verdicts_of
from diffrl.figures import short, without_nan

STYLES = {"better": "green", "worse": "red"}


@dataclass(frozen=True)
class Found:
    """One contender beside the first.

    Args:
        name: of it.
        runs: how many the first has, and it.
        epoch: of the evaluations in training, if both have one.
        verdicts: of each metric.
        epochs: whose weights were judged, by kind of evaluation, in words.
    """

    name: str
    runs: tuple[int, int]
    epoch: int | None
    verdicts: list[Verdict]
    epochs: list[str]


def compare(texts: Sequence[str], as_json: bool) -> None:
    """Print what differs and what came of it.

    Raises:
        DiffrlError: if there are no two runs, or something could not be compared; whatever could
            is printed before.
    """
    if len(texts) < 2:
        raise SettingsError([f"compare {' '.join(texts)}: expected at least two runs"])
    contenders, problems = evidence.readable(texts)
    if len(contenders) < 2:
        raise DiffrlError("\n".join(problems))
    found = [_beside(contenders[0], other, problems) for other in contenders[1:]]
    differ = evidence.settings_that_differ([one.runs[0] for one in contenders])
    if as_json:
        verdicts = {one.name: [asdict(v) for v in one.verdicts] for one in found}
        epochs = {one.name: one.epoch for one in found}
        content = {"epochs": epochs, "settings": dict(differ), "verdicts": verdicts}
        typer.echo(json.dumps(without_nan(content), allow_nan=False))
    else:
        typer.echo("\n".join(_lines(contenders, found, differ)))
    if problems:
        raise DiffrlError("\n".join(dict.fromkeys(problems)))


def _beside(first: evidence.Contender, other: evidence.Contender, problems: list[str]) -> Found:
    """Return one contender beside the first; add what could not be compared to `problems`."""
    epoch, told = evidence.last_common([first, other])
    problems += told
    one, own = (_answers(side, epoch, problems) for side in (first, other))
    verdicts: list[Verdict] = []
    epochs: list[str] = []
    compared: set[str] = set()
    for a, b in evidence.pairs(one, own):
        compared.add(a[0].kind)
        epochs.append(_epochs(a, b))
        said, told = verdicts_of(a, b)
        verdicts += said
        problems += told
    asked = [{kind[0].kind for kind in each} for each in (one, own)]
    if (asked[0] & asked[1]) - compared:
        problems.append(
            f"{other.name}: evaluated on other prompts, noise, size or sampler than "
            f"{first.name}; ask both the same with: diffrl eval RUN RUN"
        )
    return Found(other.name, (len(first.runs), len(other.runs)), epoch, verdicts, epochs)


def _answers(
    one: evidence.Contender, epoch: int | None, problems: list[str]
) -> list[list[Answers]]:
    try:
        own, told = evidence.answers(one, epoch)
    except DiffrlError as error:  # of one contender; the others are compared all the same
        own, told = [], [str(error)]
    problems += told
    if not (own or told):
        problems.append(
            f"{one.name}: no evaluation there to compare; make one with: "
            f"diffrl eval {quoted(one.runs[0].folder)}"
        )
    return own


def _epochs(one: Sequence[Answers], other: Sequence[Answers]) -> str:
    """Return, in words, whose weights were judged."""
    kind = "evaluations in training" if one[0].kind == "training" else "those of diffrl eval"
    each = [sorted({answer.epoch for answer in side}) for side in (one, other)]
    first, second = (" and ".join(map(str, side)) for side in each)
    return f"{kind} are of epoch {first}" + (f" beside {second}" if first != second else "")


def _lines(
    contenders: Sequence[evidence.Contender],
    found: Sequence[Found],
    differ: Sequence[tuple[str, list[str]]],
) -> Iterator[str]:
    names = [one.name for one in contenders]
    if differ:
        yield from columns([[key, *values] for key, values in differ], ["setting", *names])
    else:
        yield "settings: all the same"
    for one in (f for f in found if f.verdicts):
        yield ""
        yield f"{one.name} beside {names[0]}; {', '.join(one.epochs)}"
        rows = [
            [
                one_line(v.metric),
                short(v.one.mean),
                short(v.other.mean),
                _change(v.change),
                _styled(v),
            ]
            for v in one.verdicts
        ]
        yield from columns(rows, ["metric", "first", "other", "change, 95 % interval", "verdict"])
        yield f"intervals: {_intervals(one)}"


def _intervals(one: Found) -> str:
    """Return what the intervals are over, and what they are true of."""
    if min(one.runs) > 1:
        return "Welch's t over runs that differ in their seed"
    several = f"one model and the mean of {max(one.runs)}"
    what = "these two models" if max(one.runs) == 1 else several
    return (
        f"over prompts, or pictures where there are fewer than {CLUSTERS} prompts, same noise; "
        f"true of {what}. Other training seeds scatter, too: to compare methods, name folders "
        f"with several runs of each"
    )


def _change(one: Estimate) -> str:
    if one.low != one.low:
        return f"{short(one.mean, '+')}, no interval"
    low, high = (short(end, "+") for end in (one.low, one.high))
    return f"{short(one.mean, '+')} [{low}, {high}]"


def _styled(one: Verdict) -> str:
    said = one.verdict
    return typer.style(said, fg=STYLES[said]) if said in STYLES else said

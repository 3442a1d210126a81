"""What `diffrl compare` does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import typer

from diffrl.cli.columns import columns
from diffrl.errors import SettingsError
from diffrl.evidence import compare as evidence
from diffrl.evidence.intervals import Estimate

STYLES = {"better": "green", "worse": "red"}


def compare(texts: Sequence[str], as_json: bool) -> Iterator[str]:
    """Yield the lines to print.

    Raises:
        DiffrlError: if there are no two runs, or one was never evaluated.
    """
    if len(texts) < 2:
        raise SettingsError([f"compare {' '.join(texts)}: expected at least two runs"])
    contenders = [evidence.contender(text) for text in texts]
    answers = [evidence.answers(one) for one in contenders]
    runs = [run for one in contenders for run in one.runs]
    differ = evidence.settings_that_differ([one.runs[0] for one in contenders])
    lower = evidence.lower_is_better(runs)
    found = [
        (other.name, list(_verdicts(answers[0], given, lower)))
        for other, given in zip(contenders[1:], answers[1:], strict=True)
    ]
    if as_json:
        content = {name: [asdict(v) for v in verdicts] for name, verdicts in found}
        yield json.dumps({"settings": dict(differ), "verdicts": content})
        return
    yield from _settings(differ, [one.name for one in contenders])
    for (name, verdicts), other in zip(found, contenders[1:], strict=True):
        yield ""
        yield f"{name} beside {texts[0]}"
        yield from _table(verdicts, min(len(contenders[0].runs), len(other.runs)))


def _verdicts(
    one: Sequence[evidence.Answers], other: Sequence[evidence.Answers], lower: frozenset[str]
) -> Iterator[evidence.Verdict]:
    for a in one:
        for b in other:
            if a.asked == b.asked:
                yield from evidence.verdicts(a, b, lower)


def _settings(differ: Sequence[tuple[str, list[str]]], names: Sequence[str]) -> Iterator[str]:
    if not differ:
        yield "settings: all the same"
        return
    yield from columns([[key, *values] for key, values in differ], ["setting", *names])


def _table(verdicts: Sequence[evidence.Verdict], runs: int) -> Iterator[str]:
    if not verdicts:
        yield "  nothing to compare: evaluated on different prompts, noise, size or sampler;"
        yield "  ask both the same with: diffrl eval RUN RUN"
        return
    rows = [
        [v.metric, _mean(v.one), _mean(v.other), _change(v.change), _styled(v.verdict)]
        for v in verdicts
    ]
    yield from columns(rows, ["metric", "first", "other", "change, 95 % interval", "verdict"])
    if runs > 1:
        yield "intervals: Welch's t over runs that differ in their seed"
    else:
        yield (
            "intervals: over prompts, same noise; true of these two models. Other training seeds "
            "scatter, too: to compare methods, name folders with several runs of each"
        )


def _mean(one: Estimate) -> str:
    return f"{one.mean:.2f}"


def _change(one: Estimate) -> str:
    return f"{one.mean:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _styled(verdict: str) -> str:
    return typer.style(verdict, fg=STYLES[verdict]) if verdict in STYLES else verdict

"""Runs that differ in their seed only, together under one name, and what sets them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffrl.builtin.rewards.served import ServedReward
from diffrl.report.records import Record

QUESTION = (
    "eval.prompts", "eval.seed", "eval.eta", "eval.images", "model.size", "model.guidance",
    "sampler.name",
)  # fmt: skip
"""Settings that decide which pictures evaluations look at."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, and the settings that set them apart from others."""

    name: str
    records: tuple[Record, ...]

    @cached_property
    def begun(self) -> tuple[Record, ...]:
        """The runs of which curves and means are: one that has just begun would cut them short.

        That is those that were evaluated after an epoch, if none was those that have finished one,
        and if none has all.
        """
        judged = tuple(one for one in self.records if max(evaluated(one), default=0))
        return judged or tuple(one for one in self.records if one.epochs) or self.records


def evaluated(record: Record) -> dict[int, dict[str, Any]]:
    """Return the metrics of the epochs in which a run was evaluated, by epoch."""
    return {int(m["epoch"]): m for m in record.metrics if any(key.startswith("eval/") for key in m)}


def grouped(records: Sequence[Record]) -> list[Group]:
    """Return runs with equal settings but for the seed together, named by what differs.

    A seed counts once: a run that repeats one is in a group of its own, named by its folder.
    """
    together: dict[tuple[object, ...], list[Record]] = {}
    met: Counter[tuple[object, ...]] = Counter()
    for one in records:
        met[(whole := tuple((v.key, v.text) for v in one.settings))] += 1
        key = tuple((v.key, v.text) for v in one.settings if v.key != "train.seed")
        together.setdefault((met[whole], *key), []).append(one)
    firsts = [own[0] for own in together.values()]
    names = distinct_names(firsts)
    twice = Counter(names)
    alike = [r for n, r in zip(names, firsts, strict=True) if twice[n] > 1]
    places = dict(zip([id(r) for r in alike], _places(alike), strict=True))
    names = [
        f"{n or r.setting('algo')}, {places[id(r)]}" if twice[n] > 1 else n
        for n, r in zip(names, firsts, strict=True)
    ]
    return [Group(n, tuple(own)) for n, own in zip(names, together.values(), strict=True)]


def _places(records: Sequence[Record]) -> list[str]:
    """Return the ends of the runs' paths, two parts or as many as tell them apart."""
    paths = [one.folder.resolve().parts for one in records]
    for parts in range(2, max(map(len, paths), default=0)):
        ends = ["/".join(path[-parts:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    return ["/".join(path[-2:]) for path in paths]


def distinct_names(records: Sequence[Record]) -> list[str]:
    """Return a name for each run, of as few settings as tell them all apart."""
    if len(records) == 1:
        return [records[0].setting("algo")]
    used: list[str] = []
    for key, _ in differences(records):
        before = {tuple(r.setting(k) for k in used) for r in records}
        after = {tuple(r.setting(k) for k in [*used, key]) for r in records}
        used += [key] if len(after) > len(before) else []
    return [
        ", ".join(r.setting(k) if k == "algo" else f"{_short(k)}={r.setting(k)}" for k in used)
        for r in records
    ]


def differences(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Return the settings, but for the seed, that are not the same in all runs; `algo` first."""
    keys = dict.fromkeys(v.key for one in records for v in one.settings)
    rows = [(key, [one.setting(key) or "–" for one in records]) for key in keys]
    return [(k, values) for k, values in rows if len(set(values)) > 1 and k != "train.seed"]


def unlike(groups: Sequence[Group]) -> list[str]:
    """Return what keeps scores in one chart from being compared, one line for each setting."""
    firsts = [group.records[0] for group in groups]
    if len(firsts) < 2:
        return []
    rows = [(key, [_asked(one, key) for one in firsts]) for key in QUESTION]
    rows += [
        (key, [value for value in values if value != "–"])
        for key, values in differences(firsts)
        if key.startswith("rewards.") and not _aside(key, firsts[0])
    ]
    return [
        f"drawn together though {key} differs ({', '.join(dict.fromkeys(values))}): scores are "
        f"not alike"
        for key, values in rows
        if len(set(values)) > 1
    ]


def _aside(key: str, record: Record) -> bool:
    """Return whether a reward's setting moves no score: its weight, or how a server is asked."""
    reward, _, name = key.rpartition(".")
    served = bool(record.setting(f"{reward}.url"))
    return name == "weight" or (served and name in ServedReward.transport)


def _asked(record: Record, key: str) -> str:
    """Return a setting of evaluations.

    Without prompts of their own they take training's; a run of stored pairs is evaluated by DDIM.
    """
    found = record.setting(key)
    if (key, found) == ("eval.prompts", "none"):
        return record.setting("train.prompts")
    return "ddim" if (key, found) == ("sampler.name", "stored") else found


def _short(key: str) -> str:
    return key.rpartition(".")[2]

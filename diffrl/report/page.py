"""Puts a report's parts into one HTML file that opens anywhere, without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from diffrl.folder import short_commit, write
from diffrl.report import charts
from diffrl.report.grids import Slides, slides
from diffrl.report.groups import Group, differences
from diffrl.report.records import Record
from diffrl.report.tables import evaluation_tables, score_rows, steps_of

AXES = ("samples", "seconds")
MEASURES = ("sharpness", "edges", "color-entropy", "diversity")
NUMERICS = (
    ("loss/value", "loss", False),
    ("loss/clip_fraction", "clipped share of log-ratios", False),
    ("log_prob_gap/max", "log-prob gap of unchanged weights", True),
    ("grad_norm", "gradient norm before clipping", False),
    ("advantage/abs_mean", "mean |advantage|", False),
    ("samples_per_second", "samples per second", False),
)


@dataclass(frozen=True)
class Section:
    """Charts under one heading, with a line of explanation."""

    title: str
    about: str
    svgs: Sequence[str]


def render(groups: Sequence[Group], output: Path, plots: Path) -> list[str]:
    """Write the page, whole or not at all, and its plots as files.

    Returns:
        The pictures that cannot be read, one line each.
    """
    from jinja2 import Environment

    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = made.from_string(_text("page.html.jinja"))
    records = [record for group in groups for record in group.records]
    drawn = [(g.name, [slides(record) for record in g.records]) for g in groups]
    script = _text("page.js")
    page = template.render(
        title=_title(groups),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        style=_text("page.css"),
        script=script,
        policy=_policy(script),
        sections=sections(groups, plots),
        scores=[(g.name, rows) for g in groups if (rows := score_rows(g))],
        slides=[(name, [one for one in own if one.shown]) for name, own in drawn],
        notices=[(r.name, r.notices) for r in records if r.notices],
        evaluations=[(r.name, evaluation_tables(r)) for r in records if r.evaluation],
        differences=differences([g.records[0] for g in groups]) if len(groups) > 1 else [],
        names=[g.name for g in groups],
        runs=[_about(record) for record in records],
        settings=[(g.name, g.records[0].settings) for g in groups],
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write(output, page)
    every: list[Slides] = list(chain.from_iterable(own for _, own in drawn))
    return [f"cannot read {path}" for one in every for path in one.broken]


def _policy(script: str) -> str:
    """Return what a browser may do with the page: run this one script, and load nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def _text(name: str) -> str:
    return files("diffrl.report").joinpath(name).read_text("utf-8")


def _title(groups: Sequence[Group]) -> str:
    firsts = [g.records[0] for g in groups]
    algos = dict.fromkeys(one.setting("algo") for one in firsts)
    rewards = dict.fromkeys(" + ".join(one.rewards) or "stored preferences" for one in firsts)
    return f"{', '.join(algos)} on {', '.join(rewards)}"


def sections(groups: Sequence[Group], plots: Path) -> list[Section]:
    """Return the charts, drawn, under their headings; headings without any are left out."""
    metrics = [m for g in groups for r in g.records for m in r.metrics]
    keys = list(dict.fromkeys(key for m in metrics for key in m))
    trained = list(dict.fromkeys(name for g in groups for name in g.records[0].rewards))
    found = [
        ("Reward in training", "of the pictures each epoch samples", _training(groups, trained)),
        (
            "Reward by number of denoising steps",
            "a run's own prompts and noise, the same every time",
            _evaluated(groups, keys, trained),
        ),
        (
            "Rewards that are only watched",
            "if these fall while the trained one rises, it is being hacked",
            _evaluated(groups, keys, [n for n in _scored(keys) if n not in trained]),
        ),
        (
            "What reward hacking destroys",
            "detail, edges, colors, and how far pictures of one prompt are apart",
            _measures(groups, keys),
        ),
        ("Numerics", "of the updates", _numerics(groups)),
    ]
    return [
        Section(title, about, charts.save(wanted, plots))
        for title, about, wanted in found
        if wanted
    ]


def _training(groups: Sequence[Group], trained: Sequence[str]) -> list[charts.Chart]:
    made = [
        charts.chart(f"train-{n}", n, axis, groups, [(f"reward/{n}/mean", "")])
        for n in trained
        for axis in AXES
    ]
    return [c for c in made if c]


def _evaluated(
    groups: Sequence[Group], keys: Sequence[str], names: Sequence[str]
) -> list[charts.Chart]:
    """Return a chart for each reward and axis; with several groups, one for each step number."""
    made = []
    for name in names:
        steps = [k for k in keys if k.startswith(f"eval/{name}/")]
        every = [(k, steps_of(k)) for k in steps]
        cases = [("", every)] if len(groups) == 1 else [(label, [(k, "")]) for k, label in every]
        for label, wanted in cases:
            file = f"eval-{name}-{label}".replace(" ", "-").rstrip("-")
            title = ", ".join(filter(None, [name, label]))
            made += [charts.chart(file, title, axis, groups, wanted) for axis in AXES]
    return [c for c in made if c]


def _measures(groups: Sequence[Group], keys: Sequence[str]) -> list[charts.Chart]:
    wanted = {f"picture-{name}": (name, f"picture/{name}/") for name in MEASURES}
    wanted["kl"] = ("KL to the base model, nats per latent element", "kl/")
    made = []
    for file, (title, prefix) in wanted.items():
        steps = [k for k in keys if k.startswith(prefix)]
        if len(groups) == 1:
            labels = [(k, steps_of(k)) for k in steps]
        else:
            steps = [k for k in steps if all(_has(g, k) for g in groups)] or steps
            labels = [(k, "") for k in steps[-1:]]
            title = f"{title}, {steps_of(steps[-1])}" if steps else title
        made.append(charts.chart(file, title, "samples", groups, labels))
    return [c for c in made if c]


def _has(group: Group, key: str) -> bool:
    return any(key in line for record in group.records for line in record.metrics)


def _numerics(groups: Sequence[Group]) -> list[charts.Chart]:
    made = [
        charts.chart(key.replace("/", "-"), title, "samples", groups, [(key, "")], log)
        for key, title, log in NUMERICS
    ]
    return [c for c in made if c]


def _scored(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(k.split("/")[1] for k in keys if k.startswith("eval/")))


def _about(record: Record) -> dict[str, str]:
    """Return what stands at the top of the page about a run."""
    last = record.metrics[-1] if record.metrics else {}
    machine = record.environment.machine
    gpus = ", ".join(machine.gpus) or f"{machine.cores or '?'} cores"
    samples, seconds = (_finite(last.get(axis)) for axis in AXES)
    return {
        "run": record.name,
        "model": record.setting("model.ref"),
        "preset": record.setting("preset"),
        "seed": record.setting("train.seed"),
        "epochs": f"{record.epochs} of {record.setting('train.epochs')}"
        + ("" if str(record.epochs) == record.setting("train.epochs") else ", unfinished"),
        "samples": f"{int(samples):,}",
        "minutes": f"{seconds / 60:.1f}",
        "on": gpus,
        "diffrl": record.environment.packages.get("diffrl") or "?",
        "commit": short_commit(record.environment.commit),
    }


def _finite(value: Any) -> float:
    """Return a metric, or 0 where there is none."""
    return float(value) if charts.is_finite(value) else 0.0

"""Puts a report's parts into one HTML file that opens anywhere, without a network."""

from __future__ import annotations

import base64
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffrl.folder import write
from diffrl.report import charts
from diffrl.report.records import Group, Record, differences

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
WIDEST = 1600
"""Pixels of an embedded grid; wider ones are made smaller."""

MOST = 40
"""Grids of one run on a page; of more, every second, third, …"""


@dataclass(frozen=True)
class Section:
    """Charts under one heading, with a line of explanation."""

    title: str
    about: str
    svgs: Sequence[str]


def render(groups: Sequence[Group], output: Path, plots: Path) -> None:
    """Write the page, whole or not at all, and its plots as files."""
    from jinja2 import Environment

    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = made.from_string(_text("page.html.jinja"))
    records = [record for group in groups for record in group.records]
    page = template.render(
        title=_title(groups),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
        style=_text("page.css"),
        script=_text("page.js"),
        sections=sections(groups, plots),
        scores=[(g.name, rows) for g in groups if (rows := score_rows(g))],
        slides=[(g.name, [s for s in map(slides, g.records) if s["shown"]]) for g in groups],
        evaluations=[(r.name, evaluation_tables(r)) for r in records if r.evaluation],
        differences=differences([g.records[0] for g in groups]) if len(groups) > 1 else [],
        names=[g.name for g in groups],
        runs=[_about(record) for record in records],
        settings=[(g.name, g.records[0].settings) for g in groups],
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write(output, page)


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
            "same prompts and noise every time",
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
        every = [(k, _steps(k)) for k in steps]
        cases = [("", every)] if len(groups) == 1 else [(label, [(k, "")]) for k, label in every]
        for label, wanted in cases:
            file = f"eval-{name}-{label}".replace(" ", "-").rstrip("-")
            title = ", ".join(filter(None, [name, label]))
            made += [charts.chart(file, title, axis, groups, wanted) for axis in AXES]
    return [c for c in made if c]


def _measures(groups: Sequence[Group], keys: Sequence[str]) -> list[charts.Chart]:
    made = []
    for name in MEASURES:
        steps = [k for k in keys if k.startswith(f"picture/{name}/")]
        wanted = steps if len(groups) == 1 else steps[-1:]
        labels = [(k, _steps(k) if len(groups) == 1 else "") for k in wanted]
        title = name if len(groups) == 1 or not wanted else f"{name}, {_steps(wanted[0])}"
        made.append(charts.chart(f"picture-{name}", title, "samples", groups, labels))
    return [c for c in made if c]


def _numerics(groups: Sequence[Group]) -> list[charts.Chart]:
    made = [
        charts.chart(key.replace("/", "-"), title, "samples", groups, [(key, "")], log)
        for key, title, log in NUMERICS
    ]
    return [c for c in made if c]


def _steps(key: str) -> str:
    number = key.rpartition("/")[2].removesuffix("-step")
    return f"{number} step{'s' if number != '1' else ''}"


def _scored(keys: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(k.split("/")[1] for k in keys if k.startswith("eval/")))


def score_rows(group: Group) -> list[tuple[str, ...]]:
    """Return rows of reward, steps, before, after and change: means over a group's runs."""
    runs = [[m for m in r.metrics if any(k.startswith("eval/") for k in m)] for r in group.records]
    if any(len(lines) < 2 for lines in runs) or len({lines[-1]["epoch"] for lines in runs}) > 1:
        return []
    rows = []
    for key in (k for k in runs[0][-1] if k.startswith("eval/")):
        if all(key in lines[0] and key in lines[-1] for lines in runs):
            before = statistics.mean(lines[0][key] for lines in runs)
            after = [lines[-1][key] for lines in runs]
            spread = f" ± {statistics.stdev(after):.2f}" if len(after) > 1 else ""
            mean = statistics.mean(after)
            shown = (f"{before:.2f}", f"{mean:.2f}{spread}", f"{mean - before:+.2f}")
            rows.append((key.split("/")[1], _steps(key), *shown))
    return rows


def slides(record: Record) -> dict[str, Any]:
    """Return a run's grids for the slider."""
    some = record.pictures[:: -(-len(record.pictures) // MOST) or 1]
    some = (*some, *(p for p in record.pictures[-1:] if p not in some))
    found = [(f"epoch {epoch}", _embedded(path)) for epoch, path in some]
    shown = [(label, address) for label, address in found if address]
    comparison = _embedded(record.before_after) if record.before_after else ""
    return {
        "name": f"seed {record.setting('train.seed')}",
        "shown": shown,
        "comparison": comparison,
    }


def _embedded(path: Path) -> str:
    """Return a picture as a data address; nothing where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except (OSError, SyntaxError):  # what Pillow raises for a torn file
        return ""
    small.thumbnail((WIDEST, 10 * WIDEST))
    packed = io.BytesIO()
    small.save(packed, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode()


def evaluation_tables(record: Record) -> list[dict[str, Any]]:
    """Return the tables of what `diffrl eval` found for a run: one for each set of prompts."""
    cells = (record.evaluation or {}).get("cells", [])
    tables = []
    for prompts in dict.fromkeys(c["prompts"] for c in cells):
        here = sorted((c for c in cells if c["prompts"] == prompts), key=lambda c: c["steps"])
        columns = list(dict.fromkeys(name for c in here for name in c["found"]))
        rows = [
            [str(c["steps"]), c["subject"], *(_entry(c, name) for name in columns)] for c in here
        ]
        tables.append({"name": prompts, "head": ["steps", "model", *columns], "rows": rows})
    return tables


def _entry(cell: dict[str, Any], name: str) -> str:
    found = cell["found"].get(name)
    if found is None:
        return "–"
    low, high = found.get("low"), found.get("high")
    text = f"{found['mean']:.2f}"
    text += f" ± {(high - low) / 2:.2f}" if None not in (low, high) else ""
    won = cell["wins"].get(name)
    return f"{text} ({won['mean']:.0f} %)" if won else text


def _about(record: Record) -> dict[str, str]:
    """Return what stands at the top of the page about a run."""
    last = record.metrics[-1] if record.metrics else {}
    machine = record.environment.get("machine", {})
    gpus = ", ".join(machine.get("gpus", [])) or f"{machine.get('cores', '?')} cores"
    return {
        "run": record.name,
        "model": record.setting("model.ref"),
        "preset": record.setting("preset"),
        "seed": record.setting("train.seed"),
        "epochs": f"{record.epochs} of {record.setting('train.epochs')}"
        + ("" if str(record.epochs) == record.setting("train.epochs") else ", unfinished"),
        "samples": f"{int(last.get('samples', 0)):,}",
        "minutes": f"{last.get('seconds', 0.0) / 60:.1f}",
        "on": gpus,
        "diffrl": str(record.environment.get("packages", {}).get("diffrl", "?")),
        "commit": str(record.environment.get("commit") or "–")[:10],
    }

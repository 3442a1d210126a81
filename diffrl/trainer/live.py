"""What a person sees while a run goes on: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diffrl.events import EpochDone, Noticed, RunDone, RunStarted
from diffrl.figures import short
from diffrl.hookspecs import hookimpl


def live_view(console: Console | None = None) -> LiveView:
    """Return the view that fits where the program runs: table, notebook or log."""
    console = console or Console(stderr=False)
    return LiveView(console, console.is_terminal and not console.is_jupyter)


class LiveView:
    """Follows one run. `table` draws in place; otherwise each epoch is one line."""

    def __init__(self, console: Console, table: bool) -> None:
        self._console, self._table = console, table
        self._live: Live | None = None
        self._lines: list[Mapping[str, int | float]] = []
        self._began = time.perf_counter()
        self._from = 0
        self._settings: Any = None

    @hookimpl
    def diffrl_run_started(self, event: RunStarted) -> None:
        """Say what runs, and where."""
        self._settings, self._from = event.settings, event.epoch
        self._began = time.perf_counter()
        rewards = " + ".join(_weighted(w) for w in event.settings.rewards) or "none"
        recipe = event.settings.recipe
        self._console.print(
            f"[bold]{escape(recipe.name)}[/] on [bold]{escape(event.settings.model.ref)}[/], "
            f"reward {escape(rewards)}, {event.settings.train.epochs} epochs → "
            f"{escape(str(event.folder))}",
            highlight=False,
        )
        if event.epoch:
            self._console.print(f"continuing after epoch {event.epoch}", highlight=False)
        if self._table:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()

    @hookimpl
    def diffrl_update_done(self, event: EpochDone) -> None:
        """Show the epoch."""
        self._lines.append(event.metrics)
        if self._live:
            self._live.update(self._panel(event))
        else:
            self._console.print(self._line(event), highlight=False, soft_wrap=True)

    @hookimpl
    def diffrl_noticed(self, event: Noticed) -> None:
        """Say what was noticed, above the table."""
        done = "" if event.action == "warn" else f" → {event.action}"
        self._plain(f"epoch {event.epoch}, {event.source}: {event.message}{done}", "yellow")

    @hookimpl
    def diffrl_run_done(self, event: RunDone) -> None:
        """Stop drawing and print what came of it."""
        self.close()
        from diffrl.trainer.run import Run

        run = Run(event.folder)
        self._console.print(result_table(run.metrics))
        picture = event.folder / "images" / "before-after.png"
        if picture.exists():
            self._plain(f"pictures before and after: {picture}")
        self._plain(f"adapter: {event.folder}/checkpoints/{event.epoch}")

    def _plain(self, line: str, style: str | None = None) -> None:
        """Print a line as it is: a path may hold what rich takes for markup."""
        self._console.print(line, style=style, soft_wrap=True, markup=False, highlight=False)

    def close(self) -> None:
        """Give the terminal back."""
        if self._live:
            self._live.stop()
            self._live = None

    def _left(self, event: EpochDone) -> str:
        done = event.epoch - self._from
        if done < 1:
            return "?"
        seconds = (time.perf_counter() - self._began) / done * (event.epochs - event.epoch)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, event: EpochDone) -> str:
        cells = [f"{k} {v}" for k, v in figures(event.metrics)]
        return (
            f"epoch {event.epoch}/{event.epochs}  "
            + "  ".join(cells)
            + f"  left {self._left(event)}"
        )

    def _panel(self, event: EpochDone) -> Group:
        table = Table(box=None, pad_edge=False)
        recent = self._lines[-8:]
        table.add_column("epoch", justify="right")
        for name, _ in figures(recent[-1]):
            table.add_column(name, justify="right")
        for metrics in recent:
            cells = dict(figures(metrics))
            names = [n for n, _ in figures(recent[-1])]
            table.add_row(str(int(metrics["epoch"])), *[cells.get(n, "") for n in names])
        bar = ProgressBar(total=event.epochs, completed=event.epoch, width=40)
        status = Text(f"epoch {event.epoch}/{event.epochs}, time left {self._left(event)}")
        return Group(table, bar, status)


def _weighted(w: Any) -> str:
    return w.reward.name if w.weight == 1 else f"{w.reward.name}:{w.weight:g}"


def figures(metrics: Mapping[str, int | float]) -> list[tuple[str, str]]:
    """Return the figures of an epoch that a person wants to watch, as label and text."""
    out = []
    if "samples" in metrics:
        out.append(("samples", f"{int(metrics['samples'])}"))
    for key in metrics:
        if key.startswith("reward/") and key.endswith("/mean"):
            name = key.split("/")[1]
            first = metrics.get(f"reward/{name}/step_0")
            text = f"{short(metrics[key])}±{short(metrics[f'reward/{name}/std'])}"
            if first is not None:
                text = f"{short(first)}±{short(metrics[f'reward/{name}/step_0_std'])} → {text}"
            out.append((name, text))
    labels = {
        "advantage/abs_mean": ("|advantage|", ".2f"),
        "loss/clip_fraction": ("clipped", ".0%"),
        "log_prob_gap/max": ("log-prob gap", ".0e"),
        "grad_norm": ("grad norm", ".2g"),
        "samples_per_second": ("samples/s", ".1f"),
    }
    out += [(label, format(metrics[k], how)) for k, (label, how) in labels.items() if k in metrics]
    return out


def result_table(lines: list[dict[str, Any]]) -> Table:
    """Return evaluation scores before and after, one row per reward and number of steps."""
    scored = [m for m in lines if any(k.startswith("eval/") for k in m)]
    table = Table(title="before and after, same noise")
    for name in ("reward", "steps", "before", "after", "change"):
        table.add_column(name, justify="left" if name == "reward" else "right")
    if not scored:
        return table
    before, after = scored[0], scored[-1]
    for key in (k for k in after if k.startswith("eval/")):
        _, name, steps = key.split("/")
        old, new = before.get(key), after[key]
        change = "" if old is None else short(new - old, "+", new)
        shown = "" if old is None else short(old)
        table.add_row(name, steps.split("-")[0], shown, short(new), change)
    return table

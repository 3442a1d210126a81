"""A run as a value in Python: open it by its folder, read it, use its model."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from diffrl.errors import DiffrlError
from diffrl.folder import SETTINGS, read_metrics
from diffrl.paths import there
from diffrl.settings import Settings


class Run:
    """What a training run left in its folder, finished or not.

    Args:
        folder: of the run, as `diffrl train` printed it.

    Raises:
        DiffrlError: if there is no run in that folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = there(folder) or Path(folder)
        if not there(self.folder / SETTINGS):
            raise DiffrlError(f"no run in {folder}: expected a folder with {SETTINGS}")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def settings(self) -> Settings:
        """The resolved settings, with their origins."""
        from diffrl.settings.resolve import load

        return load(self.folder / SETTINGS)

    @property
    def model(self) -> str:
        """The reference of the model it trains; known without the plugins that it was made with.

        Raises:
            DiffrlError: if its settings name none.
        """
        ref = self._written("model", "ref")
        if not isinstance(ref, str):
            raise DiffrlError(f"{self.folder / SETTINGS}: expected a text for model.ref")
        return ref

    def _written(self, section: str, key: str) -> Any:
        """Return what the settings' file says, whether or not its plugins are here."""
        from diffrl.settings.toml import read

        found = read(self.folder / SETTINGS, str(self.folder / SETTINGS)).get(section)
        return found.get(key) if isinstance(found, dict) else None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict per epoch, 0 being the model before training; keys: the docs' *Metrics*."""
        return read_metrics(self.folder)

    @property
    def epoch(self) -> int:
        """The last epoch that its metrics tell of."""
        lines = self.metrics
        return int(lines[-1]["epoch"]) if lines else 0

    @property
    def pictures(self) -> list[Path]:
        """The image grids, oldest first."""
        return sorted((self.folder / "images").glob("*.png"))

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoint folders, oldest first."""
        found = (self.folder / "checkpoints").glob("*")
        return sorted((p for p in found if p.name.isdecimal()), key=lambda p: int(p.name))

    def pipeline(self, epoch: int | None = None) -> Any:
        """Return the diffusers pipeline with what was trained loaded into it.

        Its scheduler is the one that trained, if that is DDIM's or an LCM's; else the model's own.

        Args:
            epoch: of the checkpoint; default: the newest.

        Raises:
            DiffrlError: if there is no such checkpoint.
        """
        from diffrl.adapters import load_weights
        from diffrl.pipeline import scheduler_of
        from diffrl.trainer.opening import open_model
        from diffrl.trainer.session import quiet

        quiet()
        by_epoch = {int(p.name): p for p in self.checkpoints}
        chosen = max(by_epoch, default=None) if epoch is None else epoch
        if chosen is None or chosen not in by_epoch:
            raise DiffrlError(
                f"no checkpoint of epoch {epoch} in {self.folder}; there are {sorted(by_epoch)}"
            )
        pipeline = open_model(self.model)
        load_weights(pipeline, by_epoch[chosen])
        name = str(self._written("sampler", "name"))
        pipeline.scheduler = scheduler_of(name, pipeline.scheduler)
        return pipeline

    def report(self, output: str | Path | None = None) -> Path:
        """Write a page about the run, and its plots beside it; return where it is.

        Args:
            output: the HTML file; default: `report.html` in the run's folder.
        """
        from diffrl.folder import REPORT
        from diffrl.report import write_report

        target = Path(output) if output else self.folder / REPORT
        write_report([self.folder], target)
        return target

    def _repr_html_(self) -> str:
        last = self.metrics[-1] if self.metrics else {}
        rows = "".join(f"<tr><td>{escape(k)}</td><td>{v:.4g}</td></tr>" for k, v in last.items())
        return f"<b>{escape(str(self.folder))}</b><table>{rows}</table>"

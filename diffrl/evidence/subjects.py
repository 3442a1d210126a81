"""What is judged: a run, an adapter, or a whole model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrl.adapters import LORA_FILE, load_weights
from diffrl.builtin.models import check_model, checkpoint
from diffrl.errors import DiffrlError, SettingsError
from diffrl.folder import SETTINGS
from diffrl.registry import registry
from diffrl.settings import Settings
from diffrl.settings.saved import load
from diffrl.trainer.run import Run

EPOCH = re.compile(r"(.+)@(\d+)")


@dataclass(frozen=True)
class Subject:
    """A model to judge.

    Args:
        name: in tables.
        source: what was given.
        model: reference of the diffusers pipeline.
        weights: an adapter's file, or the folder that a checkpoint is; None: the model as it is.
        run: the settings it was trained with, if they are known.
        folder: of the run, if it is one.
    """

    name: str
    source: str
    model: str
    weights: Path | None = None
    run: Settings | None = None
    folder: Path | None = None

    def pipeline(self) -> Any:
        """Return the diffusers pipeline with the weights in it."""
        pipeline: Any = registry().hook.diffrl_open_model(ref=self.model)
        if self.weights is not None and self.weights.is_file():
            pipeline.load_lora_weights(str(self.weights.parent), weight_name=self.weights.name)
        elif self.weights is not None:
            load_weights(pipeline, self.weights)
        return pipeline


def subject(text: str, model: str) -> Subject:
    """Return what a word of the command line names: `[NAME=]RUN[@EPOCH]`, an adapter or a model.

    Args:
        text: a run's folder, with the epoch of a checkpoint behind it or not; a checkpoint's
            folder; a LoRA's folder or file; a model's folder, hub id, or `bundled:pipeline`.
        model: that a bare adapter belongs to.

    Raises:
        DiffrlError: if nothing of the kind is there.
    """
    name, path = _split(text)
    epoch = None
    if not path.exists() and (found := EPOCH.fullmatch(str(path))):
        path, epoch = Path(found[1]), int(found[2])
    if (path / SETTINGS).is_file() and not (path / "trainer_state.pt").exists():
        return _of_run(name, text, path, epoch)
    if epoch is not None:
        raise DiffrlError(f"{text}: {path} is no run, so it has no epochs")
    if (path / "trainer_state.pt").exists():
        settings = load(path / SETTINGS)
        return Subject(name or str(path), text, settings.model.ref, path, settings)
    if path.suffix == ".safetensors" and path.is_file():
        return Subject(name or path.stem, text, model, path)
    if (path / LORA_FILE).is_file():
        return Subject(name or path.name, text, model, path)
    ref = text.partition("=")[2] if name else text
    if not path.exists() and not _may_be_hub_id(ref):
        raise DiffrlError(
            f"{text}: nothing is there; expected a run's folder, a LoRA's folder or file, "
            f"or a model's folder or hub id"
        )
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise DiffrlError(
            f"{text}: expected a run ({SETTINGS}), a LoRA ({LORA_FILE}) or a diffusers pipeline "
            f"(model_index.json) in that folder"
        )
    check_model(ref)
    return Subject(name or ref, text, ref)


def _of_run(name: str, text: str, path: Path, epoch: int | None) -> Subject:
    run = Run(path)
    there = {int(p.name): p for p in run.checkpoints}
    if not there:
        raise DiffrlError(f"{text}: no checkpoint there yet; continue it with --resume {path}")
    if epoch is not None and epoch not in there:
        known = ", ".join(map(str, there))
        raise DiffrlError(f"{text}: no checkpoint of epoch {epoch}; there are {known}")
    chosen = there[max(there) if epoch is None else epoch]
    usual = path.name if epoch is None else f"{path.name}@{epoch}"
    settings = run.settings
    return Subject(name or usual, text, settings.model.ref, chosen, settings, path)


def _split(text: str) -> tuple[str, Path]:
    """Return the name and the path; a path may itself hold `=`."""
    whole = Path(text).expanduser()
    before, equals, after = text.partition("=")
    if whole.exists() or not equals or "/" in before:
        return "", whole
    return before, Path(after).expanduser()


def _may_be_hub_id(ref: str) -> bool:
    if ref.startswith("bundled:"):
        return Path(checkpoint(ref)).exists()
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", ref) is not None


def refuse_twins(subjects: list[Subject]) -> None:
    """Refuse two subjects of one name.

    Raises:
        SettingsError: saying how to name them.
    """
    names = [s.name for s in subjects]
    for one in dict.fromkeys(names):
        if names.count(one) > 1:
            given = " and ".join(s.source for s in subjects if s.name == one)
            raise SettingsError([f"{given}: both would be called {one!r}; write NAME=PATH"])

"""What is judged: a run, an adapter, or a whole model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from diffrl import presets
from diffrl.adapters import LORA_FILE, load_weights
from diffrl.builtin.references import is_hub_id, local
from diffrl.errors import (
    CheckpointMissing,
    DiffrlError,
    SettingsError,
    did_you_mean,
    quoted,
)
from diffrl.folder import SETTINGS
from diffrl.paths import there
from diffrl.registry import registry
from diffrl.settings import Settings
from diffrl.settings.saved import load
from diffrl.settings.toml import read
from diffrl.trainer.checkpoint import STATE
from diffrl.trainer.opening import check_reference, open_model
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
        epoch: of the run's checkpoint.
        newest: whether the run has no newer one.
        unfinished: how far the run is, if it has not ended and no epoch was named.
    """

    name: str
    source: str
    model: str
    weights: Path | None = None
    run: Settings | None = None
    folder: Path | None = None
    epoch: int | None = None
    newest: bool = False
    unfinished: str = ""

    def pipeline(self) -> Any:
        """Return the diffusers pipeline with the weights in it.

        Raises:
            CheckpointMissing: if the weights are not of that model.
        """
        pipeline = open_model(self.model)
        if self.weights is None:
            return pipeline
        try:
            if self.weights.is_file():
                pipeline.load_lora_weights(
                    self.weights.parent, weight_name=self.weights.name, use_safetensors=True
                )
            else:
                load_weights(pipeline, self.weights)
        except (
            RuntimeError, ValueError, OSError, KeyError, TypeError, AttributeError, SafetensorError,
        ) as error:  # fmt: skip
            raise self._misfit(" ".join(str(error).split())[:160]) from error
        if self.weights.is_file() and not getattr(pipeline.unet, "peft_config", None):
            raise self._misfit("it holds no adapter of the UNet")
        return pipeline

    def _misfit(self, why: str) -> CheckpointMissing:
        return CheckpointMissing(
            f"{self.source}: its weights do not fit the model {self.model!r} ({why}); name the "
            f"model that it was trained on with --model"
        )


def subjects_of(texts: Sequence[str], model: str) -> tuple[list[Subject], list[str]]:
    """Return what can be judged of what was named, and what is wrong with the rest.

    Raises:
        DiffrlError: if that is nothing.
    """
    found: list[Subject] = []
    problems: list[DiffrlError] = []
    for text in texts:
        try:
            found.append(subject(text, model))
        except DiffrlError as error:
            problems.append(error)
    if problems and not found:
        raise problems[0] if len(problems) == 1 else DiffrlError("\n".join(map(str, problems)))
    return found, [str(problem) for problem in problems]


def subject(text: str, model: str) -> Subject:
    """Return what a word of the command line names: `[NAME=]RUN[@EPOCH]`, an adapter or a model.

    Args:
        text: a run's folder, with the epoch of a checkpoint behind it or not; a checkpoint's
            folder; a LoRA's folder or file; a model's folder, hub id, or `bundled:pipeline`.
        model: that a bare adapter belongs to.

    Raises:
        DiffrlError: if nothing of the kind is there.
    """
    name, ref, epoch = _split(text)
    path = there(ref) or Path(ref)
    own = name or path.resolve().name
    checkpoint = (path / f"{STATE}.json").is_file()
    if (path / SETTINGS).is_file() and not checkpoint:
        return _of_run(name, text, path, epoch)
    if epoch is not None:
        raise DiffrlError(f"{text}: {path} is no run, so it has no epochs")
    if checkpoint:
        settings = load(path / SETTINGS)
        return Subject(own, text, settings.model.ref, path, settings)
    if path.suffix == ".safetensors" and path.is_file():
        return Subject(name or path.stem, text, model, path)
    if (path / LORA_FILE).is_file():
        return Subject(own, text, model, path)
    return _of_model(name, text, ref, path)


def _of_model(name: str, text: str, ref: str, path: Path) -> Subject:
    beside = _runs_beside(path)
    others = registry().extending("diffrl_open_model")  # which may know what looks like nothing
    if not path.exists() and (beside or not (others or _may_be_hub_id(ref))):
        raise DiffrlError(
            f"{text}: nothing is there; expected a run's folder, a LoRA's folder or file, "
            f"or a model's folder or hub id.{did_you_mean(path.name, beside)}"
        )
    if not others and path.is_dir() and not (path / "model_index.json").is_file():
        raise DiffrlError(
            f"{text}: expected a run ({SETTINGS}), a LoRA ({LORA_FILE}) or a diffusers pipeline "
            f"(model_index.json) in that folder"
        )
    check_reference(ref)
    return Subject(name or ref, text, ref)


def _runs_beside(path: Path) -> list[str]:
    """Return the names of the runs where a path would lie: `runs/typo` is no hub id."""
    if path.parent == Path("."):
        return []
    return [one.parent.name for one in path.parent.glob(f"*/{SETTINGS}")]


def _of_run(name: str, text: str, path: Path, epoch: int | None) -> Subject:
    run = Run(path)
    saved = {int(p.name): p for p in run.checkpoints}
    if not saved:
        raise DiffrlError(
            f"{text}: no checkpoint there yet; continue it with --resume {quoted(path)}"
        )
    if epoch is not None and epoch not in saved:
        known = ", ".join(map(str, saved))
        raise DiffrlError(f"{text}: no checkpoint of epoch {epoch}; there are {known}")
    chosen = max(saved) if epoch is None else epoch
    folder = path.resolve().name
    usual = folder if epoch is None else f"{folder}@{epoch}"
    settings = _settings(run, saved[chosen])
    return Subject(
        name=name or usual,
        source=text,
        model=settings.model.ref,
        weights=saved[chosen],
        run=settings,
        folder=path,
        epoch=chosen,
        newest=chosen == max(saved),
        unfinished=_unfinished(text, run, settings.train.epochs, chosen) if epoch is None else "",
    )


def _unfinished(text: str, run: Run, epochs: int, chosen: int) -> str:
    done = max(run.epoch, chosen)
    if done >= epochs:
        return ""
    return (
        f"{text}: unfinished, at epoch {done} of {epochs}; what was judged is its checkpoint of "
        f"epoch {chosen}"
    )


def _settings(run: Run, checkpoint: Path) -> Settings:
    """Return a run's settings, or say how its weights are judged without them."""
    try:
        return run.settings
    except SettingsError as error:
        adapter = checkpoint / LORA_FILE
        if not adapter.is_file():
            raise
        how = f"diffrl eval {quoted(adapter)} --model {quoted(run.model)}{_as_preset(run)}"
        alone = f"drawn as its preset has it, its weights alone can be judged with: {how}"
        raise SettingsError([*error.problems, alone]) from error


def _as_preset(run: Run) -> str:
    preset = read(run.folder / SETTINGS, str(run.folder)).get("preset")
    return f" --preset {preset}" if preset in presets.names() else ""


def _split(text: str) -> tuple[str, str, int | None]:
    """Return name, path and epoch; a path may itself hold `=` or `@`."""
    for name, rest in (("", text), text.partition("=")[::2]):
        if not rest:
            continue
        if there(rest):
            return name, rest, None
        if found := EPOCH.fullmatch(rest):
            if there(found[1]):
                return name, found[1], int(found[2])
    name, equals, rest = text.partition("=")
    return (name, rest, None) if equals and "/" not in name else ("", text, None)


def _may_be_hub_id(ref: str) -> bool:
    if ref.startswith("bundled:"):
        return local(ref) is not None
    return is_hub_id(ref)


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

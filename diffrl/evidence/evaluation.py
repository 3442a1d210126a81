"""Asks several models for the same pictures, and scores and measures what they draw."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from diffrl.evidence.drawing import Artist
from diffrl.evidence.intervals import Estimate, estimate, wins
from diffrl.evidence.protocol import Protocol
from diffrl.evidence.subjects import Subject
from diffrl.folder import environment, write
from diffrl.measures import PICTURE, cosine_distance, diversity, pixel_distance
from diffrl.scoring import ScoredBy, checked
from diffrl.tensors import Float, Tensor

FILE = "evaluation.json"
FORMAT = 1
SIDE = 64
"""Of the thumbnails that are compared pixel by pixel."""

FRECHET = 1000
"""Pictures below which a distance of distributions says nothing."""


@dataclass
class Seen:
    """What one model drew for one set of prompts in one number of steps.

    Args:
        text: the prompt of each picture.
        values: scores and measures of each picture, by name.
        small: thumbnails.
        embedded: CLIP's unit embeddings, or None.
    """

    text: list[str]
    values: dict[str, list[float]]
    small: Float[Tensor, "n 3 s s"]
    embedded: Float[Tensor, "n d"] | None


@dataclass(frozen=True)
class Cell:
    """One model, set of prompts and number of steps: estimates by name of reward or measure."""

    subject: str
    prompts: str
    steps: int
    found: Mapping[str, Estimate]
    wins: Mapping[str, Estimate] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judges:
    """What looks at pictures.

    Args:
        rewards: loaded.
        embed: pictures to unit embeddings, or None.
        tell: is told what goes on, one line at a time.
    """

    rewards: Sequence[ScoredBy]
    embed: Callable[[Tensor], Tensor] | None
    tell: Callable[[str], None]


def evaluate(
    subjects: Sequence[Subject],
    base: Subject | None,
    protocol: Protocol,
    judges: Judges,
    device: str,
    precision: str,
) -> list[Cell]:
    """Return a cell for each model, set and number of steps; the base model first.

    With a base, the others also get the share of pictures in which they beat it on the same noise,
    and how far their pictures are from its own.
    """
    cells: list[Cell] = []
    first: dict[tuple[str, int], Seen] = {}
    for one in ([base] if base else []) + list(subjects):
        artist = Artist(one, protocol, device, precision)
        for name in protocol.prompts:
            for steps in protocol.steps:
                judges.tell(f"{one.name}: {name}, {steps} step{'s' if steps > 1 else ''}")
                seen = look(artist, protocol.text(name), steps, judges)
                reference = first.get((name, steps))
                if one is base:
                    first[name, steps] = seen
                cells.append(_cell(one.name, name, steps, seen, reference, judges.rewards))
    return cells


def look(artist: Artist, text: Sequence[str], steps: int, judges: Judges) -> Seen:
    """Draw, score and measure, a piece at a time; whole pictures are kept for no longer."""
    values: dict[str, list[Tensor]] = {}
    small, embedded, kept = [], [], []
    groupwise = [r for r in judges.rewards if r.groupwise]
    for part, images in artist.pictures(text, steps):
        for reward in (r for r in judges.rewards if not r.groupwise):
            score = checked(reward, images, part) * reward.scale
            values.setdefault(reward.name, []).append(score.float().cpu())
        for name, measure in PICTURE.items():
            values.setdefault(name, []).append(measure(images).float().cpu())
        small.append(functional.adaptive_avg_pool2d(images.float(), SIDE).cpu())
        if (embed := judges.embed) is not None:
            with torch.no_grad():
                embedded.append(embed(images).float().cpu())
        kept += [images.cpu()] if groupwise else []
    found = {name: torch.cat(parts).tolist() for name, parts in values.items()}
    for reward in groupwise:
        found[reward.name] = _compared(reward, torch.cat(kept), text)
    return Seen(list(text), found, torch.cat(small), torch.cat(embedded) if embedded else None)


def _compared(reward: ScoredBy, images: Tensor, text: Sequence[str]) -> list[float]:
    """Return the scores of a reward that sees all pictures of a prompt at once."""
    found = torch.empty(len(text))
    for prompt in dict.fromkeys(text):
        rows = [i for i, one in enumerate(text) if one == prompt]
        own = checked(reward, images[rows], [prompt] * len(rows)) * reward.scale
        found[rows] = own.float().cpu()
    return found.tolist()


def _cell(
    subject: str,
    prompts: str,
    steps: int,
    seen: Seen,
    reference: Seen | None,
    rewards: Sequence[ScoredBy],
) -> Cell:
    values = dict(seen.values)
    better: dict[str, Estimate] = {}
    found: dict[str, Estimate] = {}
    if reference is not None:
        values["moved"] = pixel_distance(seen.small, reference.small).tolist()
        for reward in rewards:
            before = reference.values[reward.name]
            better[reward.name] = wins(
                before, values[reward.name], seen.text, reward.higher_is_better
            )
        if seen.embedded is not None and reference.embedded is not None:
            values["moved-clip"] = cosine_distance(seen.embedded, reference.embedded).tolist()
            if len(seen.text) >= FRECHET:
                distance = frechet(seen.embedded, reference.embedded)
                found["frechet-clip"] = Estimate(distance, 0.0, distance, distance, len(seen.text))
    found |= {name: estimate(each, seen.text) for name, each in values.items()}
    return Cell(subject, prompts, steps, found | _diversity(seen), better, values)


def _diversity(seen: Seen) -> dict[str, Estimate]:
    """Return the mean distance of two pictures of a prompt, over prompts."""
    found = {"diversity": diversity(seen.small, seen.text, pixel_distance)}
    if seen.embedded is not None:
        found["diversity-clip"] = diversity(seen.embedded, seen.text, cosine_distance)
    return {n: estimate(list(own.values()), list(own)) for n, own in found.items() if own}


def frechet(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> float:
    """Return the Fréchet distance of two sets of embeddings, as FID is of Inception's.

    Source: Heusel et al., arXiv:1706.08500; torchmetrics.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    features: Any = torch.nn.Identity()
    features.num_features = one.shape[1]
    metric = FrechetInceptionDistance(feature=features, normalize=True)
    metric.update(other, real=True)
    metric.update(one, real=False)
    return float(metric.compute())


def save(
    path: Path,
    protocol: Protocol,
    subjects: Sequence[Subject],
    cells: Sequence[Cell],
    own: str | None = None,
) -> None:
    """Write an evaluation as JSON, whole or not at all; `own` names the run whose file it is."""
    content = {
        "format": FORMAT,
        "own": own,
        "environment": environment(),
        "protocol": protocol.record(),
        "subjects": {s.name: {"source": s.source, "model": s.model} for s in subjects},
        "cells": [asdict(cell) for cell in cells],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(content) + "\n")

"""Asks several models for the same pictures, and scores and measures what they draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from diffrl.errors import DiffrlError, OutOfMemory
from diffrl.evidence.drawing import ADVICE, Artist
from diffrl.evidence.intervals import Estimate, estimate, wins
from diffrl.evidence.judges import Judges
from diffrl.evidence.protocol import Protocol
from diffrl.evidence.subjects import Subject
from diffrl.measures import (
    cosine_distance,
    cosine_distances,
    diversity,
    pixel_distance,
    pixel_distances,
)
from diffrl.scoring import ScoredBy
from diffrl.speed.fitting import give_back, in_words
from diffrl.tensors import Float, Tensor
from diffrl.trainer.look import Look

FRECHET = 1000
"""Pictures below which a distance of distributions says nothing."""


@dataclass(frozen=True)
class Cell:
    """One model, set of prompts and number of steps.

    Args:
        subject: name of the model.
        prompts: name of the set.
        steps: denoising steps.
        found: estimates by name of reward or measure.
        wins: percent of pictures that are better than the base model's, by reward; not of those
            that score a picture only beside others of the same model.
        values: of every picture, nan where there is none.
        by_prompt: of every prompt, what single pictures do not have.
    """

    subject: str
    prompts: str
    steps: int
    found: Mapping[str, Estimate]
    wins: Mapping[str, Estimate] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    by_prompt: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def evaluate(
    subjects: Sequence[Subject],
    base: Subject | None,
    protocol: Protocol,
    judges: Judges,
    device: str,
) -> Iterator[list[Cell]]:
    """Yield, for each model, a cell for each set and number of steps; the base model first.

    With a base, the others also get the share of pictures in which they beat it on the same noise,
    and how far their pictures are from its own. Where a reward fails for every picture of a cell,
    `judges.failures` says so, and the cell has none of its scores. A model that is refused, but
    for the base, is left out, and `judges.unjudged` says why.

    Raises:
        DiffrlError: if the base is refused, memory does not even hold one picture in a call, or
            something else keeps all of them from being judged.
    """
    first: dict[tuple[str, int], Look] = {}
    for one in ([base] if base else []) + list(subjects):
        try:
            cells = _cells(one, protocol, judges, device, first, one is base)
        except DiffrlError as error:
            if one is base or error.exit_code != DiffrlError.exit_code:
                raise
            judges.unjudged.append(f"{one.name}: not judged: {error}")
            continue
        finally:
            give_back()  # before the next model is loaded
        yield cells


def _cells(
    one: Subject,
    protocol: Protocol,
    judges: Judges,
    device: str,
    first: dict[tuple[str, int], Look],
    is_base: bool,
) -> list[Cell]:
    """Return the cells of a model; `first` are looks at the base model, and takes them."""
    with in_words(f"{one.name}: memory ends in loading it", ADVICE):
        artist = Artist(one, protocol, device)
    cells = []
    for name, steps in product(protocol.prompts, protocol.steps):
        where = f"{one.name}: {name}, {steps} step{'s' if steps > 1 else ''}"
        judges.tell(where)
        look = Look(judges.of(name), protocol.text(name), drop=True, embed=judges.embed)
        scores, failed = _scored(artist, look, steps, where)
        judges.failures.extend(f"{where}: {why}" for why in failed)
        reference = first.get((name, steps))
        if is_base:
            first[name, steps] = look
        cells.append(_cell(one.name, name, steps, look, scores, reference, judges.of(name)))
    return cells


def _scored(
    artist: Artist, look: Look, steps: int, where: str
) -> tuple[Mapping[str, Tensor], Sequence[str]]:
    try:
        with in_words("memory ends in looking at pictures", ADVICE):
            for _ in artist.pictures(look.text, steps, seen=look.add):
                pass
            return look.scores_and_failures()
    except OutOfMemory as error:
        raise OutOfMemory(f"{where}: {error}") from None


def _cell(
    subject: str,
    prompts: str,
    steps: int,
    look: Look,
    scores: Mapping[str, Tensor],
    reference: Look | None,
    rewards: Sequence[ScoredBy],
) -> Cell:
    values = {name: found.tolist() for name, found in {**scores, **look.measures()}.items()}
    better: dict[str, Estimate] = {}
    found: dict[str, Estimate] = {}
    if reference is not None:
        before, _ = reference.scores_and_failures()
        for reward in (r for r in rewards if not r.groupwise):
            pair = before[reward.name], scores[reward.name]
            if bool((pair[0] + pair[1]).isfinite().any()):
                better[reward.name] = wins(
                    pair[0].tolist(), pair[1].tolist(), look.text, reward.higher_is_better
                )
        values |= moved(look, reference)
        found |= _frechet(look, reference)
    found |= {name: estimate(v, look.text) for name, v in values.items() if any(x == x for x in v)}
    by_prompt = _diversity(look)
    found |= {n: estimate(list(own.values()), list(own)) for n, own in by_prompt.items()}
    return Cell(subject, prompts, steps, found, better, values, by_prompt)


def moved(look: Look, reference: Look) -> dict[str, list[float]]:
    """Return how far each picture is from the reference's of the same noise."""
    found = {"moved": pixel_distance(look.small, reference.small).tolist()}
    if look.embedded is not None and reference.embedded is not None:
        found["moved-clip"] = cosine_distance(look.embedded, reference.embedded).tolist()
    return found


def _diversity(look: Look) -> dict[str, dict[str, float]]:
    """Return the mean distance of two pictures of each prompt."""
    found = {"diversity": diversity(look.small, look.text, pixel_distances)}
    if look.embedded is not None:
        found["diversity-clip"] = diversity(look.embedded, look.text, cosine_distances)
    return {name: own for name, own in found.items() if own}


def _frechet(look: Look, reference: Look) -> dict[str, Estimate]:
    if look.embedded is None or reference.embedded is None or len(look.text) < FRECHET:
        return {}
    distance = frechet(look.embedded, reference.embedded)
    nan = float("nan")  # one number of all pictures: it has no interval
    return {"frechet-clip": Estimate(distance, nan, nan, nan, len(look.text), 1)}


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

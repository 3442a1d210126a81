"""What rewards and measures say of pictures that come in pieces; whole pictures are not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch.nn import functional

from diffrl.errors import RewardError
from diffrl.measures import PICTURE
from diffrl.scoring import ScoredBy, checked, finite_or_nan
from diffrl.tensors import Float, Tensor

THUMBNAIL = 64
"""Side at which pictures are compared with each other, in pixels."""


class Look:
    """Looks at the pictures of prompts.

    Args:
        rewards: to score with.
        text: the prompt of every picture that will come.
        drop: whether a picture without a finite score has nan, instead of ending it all.
        embed: pictures to unit embeddings, or None.
    """

    def __init__(
        self,
        rewards: Sequence[ScoredBy],
        text: Sequence[str],
        drop: bool,
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.text = tuple(text)
        self._rewards, self._embed = rewards, embed
        self._failures: dict[str, str] = {}
        self._check = partial(finite_or_nan, failures=self._failures) if drop else checked
        self._columns: dict[str, list[Tensor]] = {}
        self._kept: list[Tensor] = []
        self._small: list[Tensor] = []
        self._embedded: list[Tensor] = []
        self._device = torch.device("cpu")
        self._count = 0

    @torch.no_grad()
    def add(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Look at the next pictures, in [0, 1]; where that fails, they are still the next ones."""
        text = self.text[self._count : self._count + len(images)]
        found = {
            r.name: self._check(r, images, text) * r.scale for r in self._rewards if not r.groupwise
        }
        found |= {name: measure(images) for name, measure in PICTURE.items()}
        kept = [images.cpu()] if any(r.groupwise for r in self._rewards) else []
        small = functional.adaptive_avg_pool2d(images.float(), THUMBNAIL).cpu()
        embedded = [] if self._embed is None else [self._embed(images).float().cpu()]
        for name, value in found.items():
            self._columns.setdefault(name, []).append(value.float().cpu())
        self._kept += kept
        self._small.append(small)
        self._embedded += embedded
        self._count, self._device = self._count + len(images), images.device

    def scores(self) -> dict[str, Float[Tensor, "n"]]:
        """Return every picture's scores by reward, in their units.

        Raises:
            RewardError: of a reward that failed for every picture.
        """
        found, failed = self.scores_and_failures()
        for why in failed:
            raise RewardError(why)
        return found

    def scores_and_failures(self) -> tuple[dict[str, Float[Tensor, "n"]], list[str]]:
        """Return every picture's scores, and why rewards failed for every picture, a line each."""
        found = {
            r.name: self._compared(r) if r.groupwise else torch.cat(self._columns[r.name])
            for r in self._rewards
        }
        lost = [why for name, why in self._failures.items() if bool(found[name].isnan().all())]
        return found, lost

    def measures(self) -> dict[str, Float[Tensor, "n"]]:
        """Return every picture's measures, by name."""
        return {name: torch.cat(self._columns[name]) for name in PICTURE}

    @property
    def small(self) -> Float[Tensor, "n 3 s s"]:
        """Thumbnails of all pictures."""
        return torch.cat(self._small)

    @property
    def embedded(self) -> Float[Tensor, "n d"] | None:
        """Embeddings of all pictures, if there is something that embeds."""
        return torch.cat(self._embedded) if self._embedded else None

    def _compared(self, reward: ScoredBy) -> Float[Tensor, "n"]:
        """Return the scores of a reward that sees all pictures of a prompt at once."""
        images, found = torch.cat(self._kept), torch.empty(len(self.text))
        for prompt in dict.fromkeys(self.text):
            rows = [i for i, one in enumerate(self.text) if one == prompt]
            own = images[rows].to(self._device)
            with torch.no_grad():
                score = self._check(reward, own, [prompt] * len(rows)) * reward.scale
            found[rows] = score.float().cpu()
        return found

"""What rewards and measures say of pictures that come in pieces; whole pictures are not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from diffrl.measures import PICTURE
from diffrl.scoring import ScoredBy
from diffrl.tensors import Float, Tensor

THUMBNAIL = 64
"""Side at which pictures are compared with each other, in pixels."""

Check = Callable[..., Tensor]
"""`diffrl.scoring.checked` or `finite_or_nan`."""


class Look:
    """Looks at the pictures of prompts.

    Args:
        rewards: to score with.
        text: the prompt of every picture that will come.
        check: how a reward is called.
        embed: pictures to unit embeddings, or None.
    """

    def __init__(
        self,
        rewards: Sequence[ScoredBy],
        text: Sequence[str],
        check: Check,
        embed: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.text = tuple(text)
        self._rewards, self._check, self._embed = rewards, check, embed
        self._columns: dict[str, list[Tensor]] = {}
        self._kept: list[Tensor] = []
        self._small: list[Tensor] = []
        self._embedded: list[Tensor] = []
        self._device = torch.device("cpu")
        self._count = 0

    @torch.no_grad()
    def add(self, images: Float[Tensor, "b 3 h w"]) -> None:
        """Look at the next pictures, in [0, 1]."""
        text = self.text[self._count : self._count + len(images)]
        self._count, self._device = self._count + len(images), images.device
        for reward in (r for r in self._rewards if not r.groupwise):
            self._add(reward.name, self._check(reward, images, text) * reward.scale)
        for name, measure in PICTURE.items():
            self._add(name, measure(images))
        self._kept += [images.cpu()] if any(r.groupwise for r in self._rewards) else []
        self._small.append(functional.adaptive_avg_pool2d(images.float(), THUMBNAIL).cpu())
        if self._embed is not None:
            self._embedded.append(self._embed(images).float().cpu())

    def scores(self) -> dict[str, Float[Tensor, "n"]]:
        """Return every picture's scores by reward, in their units."""
        return {
            r.name: self._compared(r) if r.groupwise else torch.cat(self._columns[r.name])
            for r in self._rewards
        }

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

    def _add(self, name: str, value: Tensor) -> None:
        self._columns.setdefault(name, []).append(value.float().cpu())

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

"""The state at the beginning of an epoch, to go back to when the epoch cannot end."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from diffrl.trainer.checkpoint import restore_trained, trained
from diffrl.trainer.randomness import random_state, restore_random
from diffrl.trainer.session import Session


@dataclass(frozen=True)
class Moment:
    """Randomness, and copies of what is trained where these are small.

    With full finetuning there are no copies: they would double or triple the memory. An epoch whose
    updates have begun then goes on to its end before the run stops.
    """

    random: dict[str, Any]
    trained: dict[str, Any] | None
    bad_steps: int
    steps: int

    @staticmethod
    def can_rewind(session: Session) -> bool:
        """Return whether an epoch's updates can be undone."""
        return session.settings.adapter.kind == "lora"

    @classmethod
    def of(cls, session: Session) -> Moment:
        """Return the state of now."""
        weights = None
        if cls.can_rewind(session):
            weights = copied(trained(session.policy, session.ranks))
        random = random_state(session.rng)
        return cls(random, weights, session.ranks.bad_steps.now, session.ranks.steps)

    def is_near(self, session: Session) -> bool:
        """Return whether there is a way back: there are copies, or weights have not changed yet."""
        return self.trained is not None or session.ranks.steps == self.steps

    def back(self, session: Session) -> None:
        """Go back to it, if it is near."""
        if self.trained is not None:
            restore_trained(self.trained, session.policy, session.ranks)
        restore_random(self.random, session.rng)
        session.ranks.bad_steps.go_back(self.bad_steps)


def copied(value: Any) -> Any:
    """Return nested values with tensors of their own, in a fraction of `copy.deepcopy`'s time."""
    if torch.is_tensor(value):
        return value.detach().clone()
    if type(value) is dict:
        return {name: copied(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(copied(one) for one in value)
    return copy.deepcopy(value)

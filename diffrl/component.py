"""What stages and rewards have in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Component(BaseModel):
    """A named, frozen bundle of hyperparameters.

    Attributes:
        name: what settings call it, in kebab-case.
        needs: what earlier stages must give: `x0`, `x0_hat`, `path`, `log_prob`, `grad`, `labels`,
            `old` and `base` (extra sets of weights, always available).
        kept: fields whose values in the recipe stay when a setting swaps the component for another.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    kept: ClassVar[frozenset[str]] = frozenset()

    @property
    def gives(self) -> frozenset[str]:
        """What later stages can read because of this one."""
        return frozenset()

    def problems(self) -> list[str]:
        """Return what pydantic cannot say field by field, one line each."""
        return []

    def group_problems(self, group: int) -> list[str]:
        """Return what keeps it from working with groups of that many rows, one line each."""
        return []

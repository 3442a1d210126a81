"""What a page needs of the JSON files in a run's folder; the rest of them is passed over."""

from __future__ import annotations

from pydantic import BaseModel, FiniteFloat


class Machine(BaseModel):
    """Where a run ran."""

    gpus: list[str] = []
    cores: int | None = None


class Environment(BaseModel):
    """Versions and machine of a run."""

    machine: Machine = Machine()
    packages: dict[str, str | None] = {}
    commit: str | None = None


class Found(BaseModel):
    """A mean with its interval, where there is one."""

    mean: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None


class Cell(BaseModel):
    """What was found of one model with one set of prompts and number of steps."""

    subject: str
    prompts: str
    steps: int
    found: dict[str, Found | None]
    wins: dict[str, Found | None]


class Judged(BaseModel):
    """A model that was judged."""

    epoch: int | None = None


class Cells(BaseModel):
    """What `diffrl eval` wrote: `own` is the run's name among the subjects."""

    cells: list[Cell]
    own: str | None = None
    subjects: dict[str, Judged] = {}

    @property
    def epoch(self) -> int | None:
        """Whose weights were judged, if the file says so."""
        own = self.subjects.get(self.own or "")
        return own.epoch if own else None

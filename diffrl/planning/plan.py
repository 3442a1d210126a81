"""A plan: what a run needs, by part and by phase, and whether a device has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

MARGIN = 1.1
"""A run is refused where its estimate is more than this times what the device has."""


@dataclass(frozen=True)
class Part:
    """Memory that is held all the time, or in some phases.

    Args:
        name: of what it holds.
        bytes: of it.
    """

    name: str
    bytes: int


@dataclass(frozen=True)
class Phase:
    """A phase of an epoch.

    Args:
        name: of it.
        held: what it holds besides what is always held.
        working: bytes of its largest call.
        tflop: of an epoch.
        seconds: of an epoch; none: the device's speed is not known.
        calls: its largest call in words.
    """

    name: str
    held: tuple[Part, ...]
    working: int
    tflop: float
    seconds: float | None
    calls: str

    @property
    def bytes(self) -> int:
        """What it needs besides what is always held."""
        return self.working + sum(part.bytes for part in self.held)


@dataclass(frozen=True)
class Suggestion:
    """Settings with which a run fits, as a plan with them says.

    Args:
        settings: as `--set` takes them.
        bytes: that the run then needs.
        note: what else changes.
    """

    settings: tuple[str, ...]
    bytes: int
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Args:
        run: what is planned, in words.
        device: what it is planned for, in words.
        memory: bytes that the device has for a process.
        processes: of the run.
        held: what one process holds all the time.
        phases: of an epoch, with evaluations, whose seconds are of one evaluation.
        speed: where the seconds come from.
        seconds: of the whole run; none: not known.
        epochs: of it.
        trajectories: of an epoch, of all processes.
        trained: number of weights that are trained.
        frozen: number of the UNet's other weights.
        notes: what a reader should know.
        suggestions: what would make it fit, nearest first.
    """

    run: str
    device: str
    memory: int
    processes: int
    held: tuple[Part, ...]
    phases: tuple[Phase, ...]
    speed: str
    seconds: float | None
    epochs: int
    trajectories: int
    trained: int
    frozen: int
    notes: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def largest(self) -> Phase:
        """The phase that decides."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def bytes(self) -> int:
        """The most that one process needs."""
        return sum(part.bytes for part in self.held) + self.largest.bytes

    @property
    def room(self) -> int:
        """The memory that is left for the phases."""
        return self.memory - sum(part.bytes for part in self.held)

    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.bytes <= self.memory

    @property
    def hopeless(self) -> bool:
        """Whether it lacks so much that an error of the estimate does not explain it."""
        return self.bytes > MARGIN * self.memory

    @property
    def epoch_seconds(self) -> float | None:
        """Seconds of an epoch without evaluation, mean over lengths of trajectories."""
        own = [p.seconds for p in self.phases if p.name != "evaluating"]
        return None if any(s is None for s in own) else sum(s for s in own if s is not None)

    def suggesting(self, suggestions: tuple[Suggestion, ...]) -> Plan:
        """Return the plan with suggestions."""
        return replace(self, suggestions=suggestions)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as values that JSON knows; what follows from others is there, too."""
        derived = {
            "bytes": self.bytes,
            "fits": self.fits,
            "decides": self.largest.name,
            "epoch_seconds": self.epoch_seconds,
        }
        return {**asdict(self), **derived}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Plan:
        """Return the plan that `as_json` told."""
        own = {name: said[name] for name in cls.__dataclass_fields__}
        phases = (
            Phase(**{**phase, "held": tuple(Part(**p) for p in phase["held"])})
            for phase in own["phases"]
        )
        suggested = (
            Suggestion(**{**one, "settings": tuple(one["settings"])}) for one in own["suggestions"]
        )
        own |= {"held": tuple(Part(**p) for p in own["held"]), "phases": tuple(phases)}
        own |= {"notes": tuple(own["notes"]), "suggestions": tuple(suggested)}
        return cls(**own)

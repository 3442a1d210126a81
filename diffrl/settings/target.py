"""One stage, reward or section while its values are gathered."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from diffrl.errors import shown

DEFAULT = "default"
LARGEST_INT, LARGEST_FLOAT = 2**63 - 1, 3.4e38
"""What TOML and tensors can hold."""


@dataclass
class Target:
    """Gathers values for a pydantic model and says what is wrong with them.

    Args:
        path: what its fields start with in settings: `loss`, `rewards.pickscore`, `model`.
        label: what messages call it: `loss 'reward-difference'`.
        model: the class to build.
        history: every value a field was given, oldest first, with its origin.
    """

    path: str
    label: str
    model: type[BaseModel]
    history: dict[str, list[tuple[Any, str]]] = field(default_factory=dict)

    def start(self, values: Mapping[str, Any], origin: str) -> Target:
        """Take over values that come before every layer; return itself."""
        for name, value in values.items():
            self.put(name, value, origin)
        return self

    def put(self, name: str, value: Any, origin: str) -> None:
        """Give a field a value; `none` stands for None where the field may be None."""
        if value == "none" and type(None) in get_args(self.model.model_fields[name].annotation):
            value = None
        self.history.setdefault(name, []).append((value, origin))

    def build(self) -> tuple[Any, list[str]]:
        """Return the model and no problems, or None and one problem for each wrong value."""
        values = {name: given[-1][0] for name, given in self.history.items()}
        wrong = [name for name, value in values.items() if self._is_misplaced(name, value)]
        if wrong:  # which would count as 0 and 1
            return None, [
                self.problem(n, "input should be a number, not a truth value") for n in wrong
            ]
        try:
            built = self.model.model_validate(values)
        except ValidationError as error:
            found = {self._problem(e) for e in error.errors(include_url=False)}
            return None, sorted(found)
        found = [self.problem(name, why) for name, value in built if (why := too_large(value))]
        return (None, found) if found else (built, [])

    def _is_misplaced(self, name: str, value: Any) -> bool:
        """Return whether a truth value is given, alone or in a list, where numbers are wanted."""
        found = value if isinstance(value, list | tuple) else [value]
        info = self.model.model_fields.get(name)
        wanted = set() if info is None else kinds_of(info.annotation)
        return (
            any(isinstance(one, bool) for one in found)
            and bool not in wanted
            and bool(wanted & {int, float})
        )

    def origins(self) -> dict[str, str]:
        """Return where the value of each field comes from."""
        return {
            f"{self.path}.{name}": self.history[name][-1][1] if name in self.history else DEFAULT
            for name in self.model.model_fields
        }

    def problem(self, name: str, expected: str) -> str:
        """Return the message for a wrong value: what was read, expected, and where it came from."""
        given = self.history.get(name)
        if not given:
            default = self.model.model_fields[name].default
            return f"{self.path}.{name} = {default!r}: {expected}\n      which is its default"
        value, origin = given[-1]
        read = f"{self.path}.{name} = {shown(value)}: {expected}"
        return f"{read}\n      from {origin}{self._before(name)}"

    def _before(self, name: str) -> str:
        given = self.history[name]
        if len(given) > 1:
            value, origin = given[-2]
            return f"; {origin} uses {shown(value)}"
        info = self.model.model_fields[name]
        return "" if info.is_required() else f"; the default is {info.get_default()!r}"

    def _problem(self, error: Any) -> str:
        message = error["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        place = error["loc"]
        if not place:
            return f"{self.label}: {message}"
        name = str(place[0])
        if error["type"] in ("tuple_type", "list_type"):
            message = f"input should be a list; write --set '{self.path}.{name}=[…]', with quotes"
        if error["type"] == "missing" and len(place) == 1:
            return f"{self.path}.{name}: has no default, so set it with --set {self.path}.{name}=…"
        items = [str(p + 1) for p in place[1:] if isinstance(p, int)]
        return self.problem(name, message + (f" (item {', '.join(items)})" if items else ""))


def kinds_of(annotation: Any) -> set[Any]:
    """Return the plain types that an annotation is made of."""
    inner = [one for part in get_args(annotation) for one in kinds_of(part)]
    return {*inner} if inner else {annotation} if isinstance(annotation, type) else set()


def too_large(value: Any) -> str:
    """Return what a number should be that no tensor can hold, or nothing; also one of several."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return next((why for one in value if (why := too_large(one))), "")
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return "input should be a number of at most 64 bits"
    if isinstance(value, float) and math.isfinite(value) and abs(value) > LARGEST_FLOAT:
        return f"input should be between -{LARGEST_FLOAT:g} and {LARGEST_FLOAT:g}, as fp32 is"
    return ""

"""What holds for a component of any kind: it is a named, documented, frozen value."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel, ValidationError

from diffrl.stages import Component
from diffrl.testing.toy import TEXT, ToyJudge, ToyPolicy

WORDS = frozenset({"x0", "x0_hat", "path", "log_prob", "grad", "labels", "old", "base"})


class ComponentContract:
    """Tests that all kinds share. Subclass the suite of a kind instead."""

    text = (*TEXT[:3], TEXT[0])  # an epoch may draw a prompt twice

    @pytest.fixture
    def component(self) -> Component:
        """The component under test. Override this."""
        raise NotImplementedError("a contract suite needs a fixture called `component`")

    @pytest.fixture
    def policy(self) -> ToyPolicy:
        """A fresh toy policy."""
        return ToyPolicy()

    @pytest.fixture
    def judge(self) -> ToyJudge:
        """The toy judge."""
        return ToyJudge()

    def test_name_is_in_kebab_case(self, component: Component) -> None:
        """Settings and the command line spell it like this."""
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", component.name), component.name

    def test_class_has_its_own_docstring(self, component: Component) -> None:
        """`diffrl show` prints its first line."""
        assert (vars(type(component)).get("__doc__") or "").strip()

    def test_every_field_is_described(self, component: Component) -> None:
        """`diffrl show` prints the description beside the value."""
        bare = [n for n, f in type(component).model_fields.items() if not f.description]
        assert not bare, f"no Field(description=...): {', '.join(bare)}"

    def test_fields_cannot_be_changed(self, component: Component) -> None:
        """A component is a value."""
        assert type(component).model_config.get("frozen") is True
        for field in type(component).model_fields:
            with pytest.raises(ValidationError):
                setattr(component, field, getattr(component, field))

    def test_unknown_fields_are_refused(self, component: Component) -> None:
        """A misspelt setting must not pass silently."""
        with pytest.raises(ValidationError):
            type(component).model_validate({**component.model_dump(), "no_such_field": 1})

    def test_fields_are_all_there_is_to_it(self, component: Component) -> None:
        """It comes back equal from its fields, through python and through JSON."""
        kind: type[BaseModel] = type(component)
        assert kind.model_validate(component.model_dump()) == component
        assert kind.model_validate_json(component.model_dump_json()) == component

    def test_it_holds_no_other_state(self, component: Component) -> None:
        """No private attribute carries something from one call to the next."""
        assert set(vars(component)) == set(type(component).model_fields)
        assert not type(component).__private_attributes__

    def test_needs_and_gives_are_words_of_the_fit_check(self, component: Component) -> None:
        """A word that the check does not know would never be satisfied."""
        unknown = (component.needs | component.gives) - WORDS
        assert not unknown, f"known: {sorted(WORDS)}; unknown: {sorted(unknown)}"

    def test_it_has_no_problem_with_itself(self, component: Component) -> None:
        """`problems()` is empty for a component that works."""
        assert component.problems() == []

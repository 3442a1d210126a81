"""Each test of the suites refuses a component that breaks its rule."""

import importlib.util
from collections import defaultdict
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
SOURCE = Path(__file__).with_name("broken_components.py")


def rules():
    """Return, by test class, which tests each broken component should fail."""
    spec = importlib.util.spec_from_file_location("broken_components", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: case for name, case in vars(module).items() if hasattr(case, "rules")}


@pytest.fixture(scope="module")
def cases():
    return rules()


@pytest.fixture
def failed(pytester):
    """Test names that failed, by test class."""
    pytester.makepyfile(test_broken=SOURCE.read_text())
    found = defaultdict(set)
    for report in pytester.inline_run("-q", "-p", "no:cacheprovider").getfailures():
        _, case, test = report.nodeid.split("::")
        if report.when == "call":  # not where there was nothing to test
            found[case].add(test)
    return found


def test_every_broken_rule_is_noticed(cases, failed):
    unnoticed = {name: case.rules - failed[name] for name, case in cases.items()}
    assert {name: left for name, left in unnoticed.items() if left} == {}


def test_every_rule_has_a_component_that_breaks_it(cases):
    suites = {base for case in cases.values() for base in case.__bases__}
    for suite in suites:
        tests = {name for name in dir(suite) if name.startswith("test_")}
        broken = set().union(*(c.rules for c in cases.values()))
        assert tests - broken == set(), suite.__name__

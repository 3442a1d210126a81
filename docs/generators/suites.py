"""The contract suites: what each asks of a component."""

from __future__ import annotations

import inspect

from generators.markdown import table


def suites() -> str:
    """Return a table of tests for every public suite."""
    from diffrl.testing import contracts

    parts = []
    for name in contracts.__all__:
        suite = getattr(contracts, name)
        own = [
            (f"`{test}`", _line(function))
            for test, function in vars(suite).items()
            if test.startswith("test_")
        ]
        parts.append(f"### {name}\n\n{_line(suite)}\n\n{table(('test', 'what it holds'), own)}")
    return "\n\n".join(parts)


def _line(item: object) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0]

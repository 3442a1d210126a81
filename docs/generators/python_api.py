"""The Python interface: signatures and docstrings of what `diffrl` offers for training."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TRAINER = Path(__file__).resolve().parents[2] / "diffrl" / "trainer"


def train() -> str:
    """Return the interface of `diffrl.train`."""
    return function_head("train")


def resume() -> str:
    """Return the interface of `diffrl.resume`."""
    return function_head("resume")


def function_head(name: str) -> str:
    """Return the signature and docstring of one of the functions."""
    source = (TRAINER / "api.py").read_text("utf-8")
    (function,) = (n for n in ast.parse(source).body if getattr(n, "name", "") == name)
    assert isinstance(function, ast.FunctionDef)
    return f"```python\n{head(source, function)}\n```"


def run() -> str:
    """Return the interface of `diffrl.Run`: its docstring and its public members."""
    source = (TRAINER / "run.py").read_text("utf-8")
    (described,) = (n for n in ast.parse(source).body if isinstance(n, ast.ClassDef))
    members = "\n\n".join(head(source, member) for member in public(described))
    docstring = ast.get_source_segment(source, described.body[0])
    return f"```python\nclass {described.name}:\n    {docstring}\n\n{members}\n```"


def public(described: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the public methods and properties of a class."""
    for member in described.body:
        if isinstance(member, ast.FunctionDef) and not member.name.startswith("_"):
            yield member


def head(source: str, function: ast.FunctionDef) -> str:
    """Return a function's source up to the end of its docstring."""
    first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
    return "\n".join(source.splitlines()[first - 1 : function.body[0].end_lineno])

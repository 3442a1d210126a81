"""What components are handed and hand on: from `protocols.py`, `types.py` and `stages.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from generators.hooks import dataclasses, signature
from generators.markdown import listed

PACKAGE = Path(__file__).resolve().parents[2] / "diffrl"


def protocols() -> str:
    """Return the methods of the policy and the judge, each with its signature."""
    return "\n\n".join(
        f"## {node.name}\n\n{listed(ast.get_docstring(node) or '')}\n\n{methods(node)}"
        for node in classes(PACKAGE / "protocols.py")
    )


def values() -> str:
    """Return the fields of every value that crosses from one stage to the next."""
    fields = dict(dataclasses("diffrl/types.py"))
    parts = []
    for node in classes(PACKAGE / "types.py"):
        what = fields[node.name]
        if not any(isinstance(one, ast.AnnAssign) for one in node.body):
            what = f"{listed(ast.get_docstring(node) or '')}\n\n{methods(node)}"
        parts.append(f"### {node.name}\n\n{what}")
    return "\n\n".join(parts)


def methods(node: ast.ClassDef) -> str:
    """Return a class's methods, each with its signature."""
    own = [m for m in node.body if isinstance(m, ast.FunctionDef) and ast.get_docstring(m)]
    return "\n\n".join(
        f"```python\n{signature(m)}\n```\n\n{listed(ast.get_docstring(m) or '')}"
        for m in own
        if m.name == "__call__" or not m.name.startswith("_")
    )


def declared() -> str:
    """Return what each kind of component says of itself, as its class describes it."""
    return "\n\n".join(
        f"### {node.name}\n\n{listed(ast.get_docstring(node) or '')}\n\n{asked(node)}"
        for node in classes(PACKAGE / "stages.py")
    )


def asked(node: ast.ClassDef) -> str:
    """Return what may be asked of a component, but for the call and what its text has told."""
    told = ast.get_docstring(node) or ""
    rows = []
    for one in node.body:
        if not isinstance(one, ast.FunctionDef) or one.name == "__call__":
            continue
        is_property = any(ast.unparse(d) == "property" for d in one.decorator_list)
        if is_property and f"    {one.name}:" in told:
            continue
        arguments = "" if is_property else f"({', '.join(a.arg for a in one.args.args[1:])})"
        first = " ".join((ast.get_docstring(one) or "").partition("\n\n")[0].split())
        rows.append(f"- `{one.name}{arguments}`: {first[0].lower()}{first[1:].rstrip('.')}.")
    return "\n".join(rows)


def classes(path: Path) -> Iterator[ast.ClassDef]:
    """Yield a module's classes in order."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node

"""The hooks page, from `diffrl/hookspecs.py` and `diffrl/events.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from generators.markdown import listed

ROOT = Path(__file__).resolve().parents[2]


def hooks() -> str:
    """Return every hook with its exact signature, and the events that observers receive."""
    parts = []
    for function in functions(ROOT / "diffrl" / "hookspecs.py"):
        first = any("firstresult" in ast.unparse(d) for d in function.decorator_list)
        note = "\n\nThe first result that is not None counts." if first else ""
        parts.append(
            f"## {function.name}\n\n```python\n{signature(function)}\n```\n\n"
            f"{listed(ast.get_docstring(function) or '')}{note}"
        )
    events = [f"### {name}\n\n{text}" for name, text in dataclasses("diffrl/events.py")]
    intro = (
        "## Events\n\nWhat observers receive, from `diffrl.events`. One that fails is noticed, "
        "once, in `notices.jsonl`, and the run\ngoes on; only what writes the run's own folder may "
        "end it."
    )
    return "\n\n".join([*parts, intro, *events])


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """Yield the hook specifications of a module, in order."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            yield node


def signature(function: ast.FunctionDef) -> str:
    """Return the line that a plugin writes to implement a hook."""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"def {function.name}({ast.unparse(function.args)}){returns}".replace("'", '"')


def dataclasses(path: str) -> Iterator[tuple[str, str]]:
    """Yield the name and a description of each dataclass of a module."""
    source = (ROOT / path).read_text("utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign)]
            lines = [f"    {ast.get_source_segment(source, f)}" for f in fields]
            code = "\n".join([f"class {node.name}:", *lines])
            yield node.name, f"{listed(ast.get_docstring(node) or '')}\n\n```python\n{code}\n```"

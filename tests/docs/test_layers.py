"""The layers that the docs name are those that are checked."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_docs_name_the_layers_that_import_linter_checks():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    checked = re.search(r"\nlayers = \[\n(.*?)\]", project, re.DOTALL)
    told = re.search(
        r"## Layers.*?```\n(.*?)```", (ROOT / "docs/architecture.md").read_text("utf-8"), re.DOTALL
    )
    assert checked and told
    layers = [
        re.split(r" [|:] ", line.strip('", ')) for line in checked[1].split("\n") if line.strip()
    ]
    assert [line.split(", ") for line in told[1].split("\n") if line] == layers

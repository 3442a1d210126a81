"""The docs say what the code does: fresh generated parts, no undocumented name, no dead link."""

import inspect
import re
from pathlib import Path

import pytest

from diffrl import hookspecs
from diffrl.settings import SECTIONS
from diffrl.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("plugins/*/*.md"), *(ROOT / "docs").rglob("*.md")])
HOOKS = [name for name in vars(hookspecs) if name.startswith("diffrl_")]


def test_generated_parts_are_fresh(generate):
    stale = [p for p in generate.PAGES if generate.render(p) != (ROOT / p).read_text("utf-8")]
    assert not stale, "python docs/generate.py"


def test_all_pages_with_markers_are_generated(generate):
    marked = {p for p in PAGES if re.search(r"^<!-- [\w-]+:begin -->$", p.read_text("utf-8"), re.M)}
    assert {str(p.relative_to(ROOT)) for p in marked} == set(generate.PAGES)


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_is_documented_with_its_exact_signature(name):
    signature = str(inspect.signature(getattr(hookspecs, name))).replace("'", "")
    page = (ROOT / "docs" / "hooks.md").read_text("utf-8")
    assert f"```python\ndef {name}{signature}\n```" in page


@pytest.mark.parametrize(
    "setting",
    [f"{name}.{field}" for name, section in SECTIONS.items() for field in section.model_fields],
)
def test_each_setting_of_a_run_is_documented_with_its_meaning(setting):
    section, field = setting.split(".")
    meaning = SECTIONS[section].model_fields[field].description
    assert meaning, f"{setting} has no description"
    rows = rows_of("docs/settings.md", setting)  # of its section, and of the presets
    assert [row for row in rows if meaning.replace("|", "\\|") in row], rows


@pytest.mark.parametrize("slot", [*STAGES, "reward"])
def test_each_component_and_its_fields_are_documented(generate, slot):
    from generators.fields import collect

    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    found = collect(slot)
    assert found, f"no {slot} is bundled"
    for component in found:
        assert f"### {slot.replace('_', ' ')} `{component.name}`" in page
        for field in component.model_fields.values():
            assert field.description and field.description.replace("|", "\\|") in page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    broken = [
        target
        for target in targets
        if not target.startswith(("http://", "https://", "#"))
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []


def test_readme_has_the_two_commands_exactly():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "```bash\npip install . && diffrl train --algo sdpo --reward pickscore\n```" in text
    assert '```bash\npip install ".[test]" && pytest\n```' in text


def test_commands_in_the_docs_use_only_options_that_exist(generate):
    from typer.main import get_command

    from diffrl.cli.app import app

    commands = get_command(app).commands
    known = {n: {o for p in c.params for o in p.opts} for n, c in commands.items()}
    checked = 0
    for page in PAGES:
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text("utf-8"), re.S))
        for line in re.findall(r"^(?:.* )?diffrl ([a-z-]+.*)$", blocks, re.M):
            name, *words = line.partition(" #")[0].split()
            used = {w.partition("=")[0] for w in words if w.startswith("--")}
            assert name in known, f"{page.name}: diffrl {name}"
            assert used <= known[name], f"{page.name}: diffrl {line}"
            checked += 1
    assert checked >= 10


def rows_of(page: str, name: str) -> list[str]:
    """Return the table rows of a page that are about one name."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith(f"| `{name}` |") and line.count("|") == 5]

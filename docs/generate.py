"""Write the generated parts of the docs and the README.

A generated part lies between `<!-- name:begin -->` and `<!-- name:end -->`. It is derived from the
code, the presets and the benchmark results of this checkout, and from first-party plugins only, so
that it does not depend on what else is installed.

Usage: python docs/generate.py           rewrites what is stale
       python docs/generate.py --check   exits with 1 if something is
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from generators.ablation import ablation
from generators.commands import cli
from generators.emoji import captions
from generators.fields import (
    components,
    presets,
    recipe,
    recipes,
    reward_table,
    rewards,
    sections,
)
from generators.gallery import gallery
from generators.handed import declared, protocols, values
from generators.hooks import hooks
from generators.means import beside, gap, startup
from generators.paper import accuracy, by_prompt, by_seed, figure, summary, table_one
from generators.planning import gpus, plan_error
from generators.python_api import resume, run, train
from generators.results import results, reward_precision, reward_speed, signal, terminal, zoo
from generators.scaling import scaling
from generators.speed import profile, speed
from generators.suites import suites
from generators.watchdog import watchdog

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "diffrl_rwr"


def main(arguments: list[str]) -> int:
    """Rewrite stale pages, or with --check only name them."""
    stale = [page for page in PAGES if render(page) != (ROOT / page).read_text("utf-8")]
    for page in stale:
        print(f"{page} is {'stale; run python docs/generate.py' if arguments else 'rewritten'}")
        if not arguments:
            (ROOT / page).write_text(render(page), "utf-8")
    return 1 if stale and arguments else 0


def render(page: str) -> str:
    """Return a page with its generated parts fresh."""
    text = (ROOT / page).read_text("utf-8")
    for name, make in PAGES[page].items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{page} lacks the markers {begin} … {end}")
        text = f"{before}{begin}\n\n{make().strip()}\n\n{end}{after}"
    return text


def plugin_code() -> str:
    """Return the example plugin's module."""
    return f"```python\n{(EXAMPLE / 'diffrl_rwr.py').read_text('utf-8')}```"


def plugin_test() -> str:
    """Return the example plugin's tests."""
    return f"```python\n{(EXAMPLE / 'test_diffrl_rwr.py').read_text('utf-8')}```"


def plugin_package() -> str:
    """Return the example plugin's pyproject."""
    return f"```toml\n{(EXAMPLE / 'pyproject.toml').read_text('utf-8')}```"


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"results": results},
    "docs/cli.md": {"cli": cli},
    "docs/speed-settings.md": {"gap": gap, "startup": startup},
    "docs/emoji-world.md": {"captions": captions},
    "docs/hooks.md": {"hooks": hooks},
    "docs/handed.md": {"protocols": protocols, "values": values, "declared": declared},
    "docs/python.md": {"train": train, "resume": resume, "run": run},
    "docs/gallery.md": {"gallery": gallery},
    "docs/processes.md": {"scaling": scaling},
    "docs/speed.md": {"speed": speed, "ablation": ablation, "profile": profile, "beside": beside},
    "docs/watchdog.md": {"watchdog": watchdog},
    "docs/plan.md": {"gpus": gpus, "plan-error": plan_error},
    "docs/paper.md": {
        "summary": summary,
        "table-1": table_one,
        "by-prompt": by_prompt,
        "by-seed": by_seed,
        "accuracy": accuracy,
        "fig-4": partial(figure, "Fig. 4", *(f"fig-4-{n}" for n in (1, 2, 4, 8))),
        "fig-5": partial(figure, "Fig. 5", "fig-5-samples", "fig-5-seconds", "fig-5-gamma"),
        "fig-6": partial(figure, "Fig. 6", "fig-6-norm", "fig-6-decay", "fig-6-order"),
        "fig-7": partial(figure, "Fig. 7", *(f"fig-7-{n}" for n in (1, 2, 4, 8))),
        "fig-8": partial(figure, "Fig. 8", "fig-8"),
        "looked-into": partial(figure, "Looked into", "looked-into"),
    },
    "docs/settings.md": {
        "sections": sections,
        "presets": presets,
        "components": components,
        "rewards": rewards,
    },
    "docs/rewards/index.md": {
        "reward-table": reward_table,
        "reward-speed": reward_speed,
        "reward-precision": reward_precision,
    },
    "docs/write-a-plugin.md": {
        "plugin-code": plugin_code,
        "plugin-package": plugin_package,
        "plugin-test": plugin_test,
    },
    "docs/algorithms/index.md": {
        "recipes": recipes,
        "zoo": zoo,
        "terminal": terminal,
        "signal": signal,
    },
    "docs/algorithms/d3po.md": {"recipe-d3po": partial(recipe, "d3po")},
    "docs/algorithms/ddpo.md": {"recipe-ddpo": partial(recipe, "ddpo")},
    "docs/algorithms/rebel.md": {
        f"recipe-{name}": partial(recipe, name) for name in ("rebel", "prdp", "prdp-rebel")
    },
    **{
        f"plugins/diffrl_{name}/README.md": {
            f"recipe-{algo}": partial(recipe, algo) for algo in algorithms
        }
        for name, algorithms in {
            "d3po": ("d3po",),
            "ddpo": ("ddpo",),
            "rebel": ("rebel", "prdp", "prdp-rebel"),
            "sdpo": ("sdpo",),
        }.items()
    },
    "docs/testing.md": {"suites": suites},
    "docs/algorithms/sdpo.md": {"recipe-sdpo": partial(recipe, "sdpo"), "results": results},
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

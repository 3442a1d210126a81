"""The gallery, from its result file."""

from __future__ import annotations

import json

from diffrl.folder import short_commit
from generators.markdown import table
from generators.results import FOLDER


def gallery() -> str:
    """Return a section for each run: figures, curve, pictures."""
    path = FOLDER / "gallery.json"
    if not path.exists():
        return "*Not made yet.*"
    made = json.loads(path.read_text("utf-8"))
    parts = []
    for run in made["runs"]:
        name = f"{run['algo']}-{run['reward']}"
        head = [f"{key.rpartition('/')[2].removesuffix('-step')} steps" for key in run["after"]]
        head = [h.replace("1 steps", "1 step") if h == "1 steps" else h for h in head]
        rows = [("before", *(f"{v:.2f}" for v in run["before"].values()))]
        rows += [("after", *(f"{v:.2f}" for v in run["after"].values()))]
        parts.append(
            f"## {run['algo']} on {run['reward']}\n\n"
            f"{table((run['reward'], *head), rows)}\n\n"
            f"![{run['reward']} against samples](images/gallery/{name}-curve.svg)\n\n"
            f"![Pictures before and after training](images/gallery/{name}.webp)"
        )
    where = ", ".join(short_commit(one) for one in made["commits"])
    how = f"On {made['machine']}, at commit {where}, by `python -m benchmarks.gallery`."
    return "\n\n".join([*parts, how])

"""Makes the gallery: pictures before and after, and curves, of every algorithm and every reward.

    python -m benchmarks.gallery [--folder ablations/gallery] [--jobs 2]

Trains every algorithm on PickScore, and SDPO on all other rewards, with the defaults and seed 42.
Finished runs are kept, others go on. Writes pictures and curves into `docs/images/gallery/` and
their list into `benchmarks/results/gallery.json`, of which `docs/generate.py` makes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.default_run import machine
from benchmarks.zoo import ALGORITHMS, RESULTS, ROOT
from diffrl.folder import ENVIRONMENT, SETTINGS, environment, read_metrics, read_object
from diffrl.report.charts import INK, chart, draw, write
from diffrl.report.groups import Group
from diffrl.report.records import record
from diffrl.shelf import finished
from diffrl.trainer.run import Run

REWARDS = (
    "aesthetic",
    "hpsv2",
    "imagereward",
    "clipscore",
    "jpeg-compressibility",
    "jpeg-incompressibility",
    "animal-accuracy",
)
RUNS = [(algo, "pickscore") for algo in ALGORITHMS] + [("sdpo", reward) for reward in REWARDS]
IMAGES = ROOT / "docs" / "images" / "gallery"
WIDTH = 1040
LINE = "#c9d0d8"


def main() -> None:
    """Train what is not trained yet, and write pictures, curves and their list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "ablations" / "gallery")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    train(options.folder, options.jobs)
    IMAGES.mkdir(parents=True, exist_ok=True)
    rows = [shown(*one, folder_of(options.folder, *one)) for one in RUNS]
    made = [read_object(folder_of(options.folder, *one) / ENVIRONMENT) for one in RUNS]
    result = {
        "machine": machine(),
        "commits": sorted({str(one["commit"]) for one in made}),
        "environment": {k: v for k, v in environment().items() if k != "command"},
        "runs": rows,
    }
    (RESULTS / "gallery.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def train(folder: Path, jobs: int) -> None:
    """Train what is not finished, so many runs at a time, each with its share of the cores.

    Raises:
        SystemExit: if a run failed; the others have ended.
    """
    share = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}

    def trained(one: tuple[str, str]) -> bool:
        own = folder_of(folder, *one)
        if finished(own, epochs(own)):
            return True
        return not subprocess.run([*command(own, *one)], env=share, check=False).returncode

    with ThreadPoolExecutor(jobs) as pool:
        if not all(list(pool.map(trained, RUNS))):
            raise SystemExit("a run failed")


def folder_of(folder: Path, algo: str, reward: str) -> Path:
    """Return where a run lies."""
    return folder / f"{algo}-{reward}"


def epochs(folder: Path) -> int:
    """Return how many epochs a run is to have; 0 where there is none."""
    return Run(folder).settings.train.epochs if (folder / SETTINGS).is_file() else 0


def command(folder: Path, algo: str, reward: str) -> Sequence[str]:
    """Return the command of a run, or to continue it."""
    base = [sys.executable, "-m", "diffrl", "train"]
    if (folder / SETTINGS).exists():
        return [*base, "--resume", str(folder)]
    return [*base, "--algo", algo, "--reward", reward, "--output", str(folder)]


def shown(algo: str, reward: str, folder: Path) -> dict[str, object]:
    """Write a run's picture and curve, and return what the page says of it."""
    name = f"{algo}-{reward}"
    with Image.open(folder / "images" / "before-after.png") as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDTH, 4 * WIDTH), Image.Resampling.LANCZOS)
    small.save(IMAGES / f"{name}.webp", quality=86, method=6)
    write(IMAGES / f"{name}-curve.svg", curve(folder, reward))
    lines = [m for m in read_metrics(folder) if f"eval/{reward}/1-step" in m]
    steps = [k for k in lines[-1] if k.startswith(f"eval/{reward}/")]
    return {
        "algo": algo,
        "reward": reward,
        "before": {k: lines[0][k] for k in steps},
        "after": {k: lines[-1][k] for k in steps},
        "seconds": lines[-1]["seconds"],
    }


def curve(folder: Path, reward: str) -> Any:
    """Return the plot of a run's training reward."""
    group = Group("run", (record(folder),))
    keys = [(f"reward/{reward}/mean", "")]
    made = chart("curve", f"{reward} in training", "samples", [group], keys)
    assert made is not None
    figure = draw(made, INK, LINE)
    figure.patch.set_facecolor("white")
    return figure


if __name__ == "__main__":
    main()

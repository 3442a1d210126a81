"""Rebuilds the emoji world: `python -m diffrl.emoji.build [OUT] [--stage NAME] [--quick]`.

Stages save into OUT and read earlier stages from it, so a failure costs one stage. OUT then holds
what `diffrl/emoji/weights` holds, and besides it `stages/` and `timings.txt`.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

STAGES = {
    "vae": "train_vae.train_vae",
    "clip": "train_clip.train_clip",
    "judge": "train_judge.train_judge",
    "bank": "latents.make_bank",
    "student": "train_student.train_student",
    "fade": "train_student.fade_student",
    "pickscore": "train_pickscore.train_pickscore",
    "aesthetic": "train_aesthetic.train_aesthetic",
    "hpsv2": "train_hpsv2.train_hpsv2",
    "imagereward": "train_imagereward.train_imagereward",
    "finish": "finish.finish",
}
"""Stage name and the function that runs it, in order."""

SIDE_BY_SIDE = (("vae",), ("clip", "judge"))
"""Stages that need nothing from each other; each branch gets half of the cores."""

QUICK = 0.04
"""Share of every stage's steps with `--quick`."""

log = logging.getLogger("diffrl.emoji")


def run_stage(name: str, out: Path, scale: float = 1.0) -> float:
    """Runs one stage with `scale` times its steps; gives the seconds it took."""
    module, function = STAGES[name].split(".")
    stage: Callable[[Path, float], None] = getattr(
        import_module(f"diffrl.emoji.{module}"), function
    )
    started = time.time()
    stage(out, scale)
    seconds = time.time() - started
    log.info("stage %s took %.0f s", name, seconds)
    with (out / "timings.txt").open("a") as file:
        file.write(f"{name} {seconds:.0f}\n")
    return seconds


def run_side_by_side(out: Path, rest: Sequence[str]) -> None:
    """Runs the independent branches as processes of their own.

    Raises:
        RuntimeError: a branch failed; its own output says why.
    """
    cores = os.cpu_count() or 2
    threads = ["--threads", str(max(1, cores // len(SIDE_BY_SIDE)))]
    running = []
    for branch in SIDE_BY_SIDE:
        chosen = [word for name in branch for word in ("--stage", name)]
        command = [sys.executable, "-m", "diffrl.emoji.build", str(out), *chosen, *threads, *rest]
        running.append(subprocess.Popen(command))
    codes = [process.wait() for process in running]
    if any(codes):
        raise RuntimeError(f"branches {SIDE_BY_SIDE} ended with {codes}")


def main(argv: list[str] | None = None) -> None:
    """Runs the named stages, or all of them, independent ones side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        default=Path("emoji-weights"),
        help="folder to write; it becomes `weights` (default: emoji-weights)",
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="only this stage")
    parser.add_argument("--quick", action="store_true", help="4 %% of the steps, for a smoke test")
    parser.add_argument("--threads", type=int, help="torch threads")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    stages = options.stage
    if not stages:
        run_side_by_side(options.out, ["--quick"] if options.quick else [])
        branched = {name for branch in SIDE_BY_SIDE for name in branch}
        stages = [name for name in STAGES if name not in branched]
    for name in stages:
        run_stage(name, options.out, QUICK if options.quick else 1.0)


if __name__ == "__main__":
    main()

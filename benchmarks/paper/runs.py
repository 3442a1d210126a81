"""Makes the runs that are not made yet, each in a folder of its own, one after the other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.paper.cells import Cell, Tier
from benchmarks.paper.records import Records, epochs, identity
from benchmarks.paper.warm import Warm
from diffrl.cli.children import as_interrupts, end
from diffrl.shelf import finished

Took = Callable[[Cell, float], None]


@as_interrupts()
def run_all(
    cells: Sequence[Cell],
    records: Records,
    root: Path,
    jobs: int,
    until: float,
    took: Took = lambda *_: None,
) -> tuple[int, list[str]]:
    """Run what no record tells of, all cells of one seed before the next; stop after a while.

    Ctrl-C stops it, too: runs that have begun save, and the same call continues them.

    Args:
        cells: to run.
        records: of the tier, to which finished runs are added.
        root: folder of all runs.
        jobs: runs at the same time, each on its share of the cores.
        until: moment (`time.monotonic`) after which no run is started.
        took: is told how many seconds the process of a finished run took.

    Returns:
        How many runs are still to be made, and what went wrong, one line each.
    """
    waiting = list(missing(cells, records, root))
    running: list[tuple[Cell, int, Warm]] = []
    failed: list[str] = []
    try:
        while running or (waiting and time.monotonic() < until):
            while waiting and len(running) < jobs and time.monotonic() < until:
                cell, seed = waiting.pop(0)
                folder = place(root, cell, records.tier, seed)
                process = start(cell, records.tier, seed, folder, jobs)
                running.append((cell, seed, process))
            time.sleep(0.2)
            for one in [r for r in running if r[2].poll() is not None]:
                running.remove(one)
                cell, seed, process = one
                folder = place(root, cell, records.tier, seed)
                if done := process.returncode == 0 and finished(folder, epochs(cell, records.tier)):
                    records.keep(cell, seed, folder)
                    took(cell, time.monotonic() - process.began)
                said = f"{folder}: {'done' if done else f'failed, see {log(folder)}'}"
                print(f"{len(waiting) + len(running)} to go  {said}", flush=True)
                failed += [] if done else [said]
    except KeyboardInterrupt:
        print("stopped: what has begun saves and can be continued", flush=True)
    finally:
        end(process for _, _, process in running)
    return len(waiting) + len(running), failed


def missing(cells: Sequence[Cell], records: Records, root: Path) -> Iterator[tuple[Cell, int]]:
    """Yield the runs without a record; of those that lie in their folders finished, make one."""
    for number in range(records.tier.seeds):
        for cell in cells:
            seed = 42 + number
            folder = place(root, cell, records.tier, seed)
            if not records.get(cell, seed) and finished(folder, epochs(cell, records.tier)):
                records.keep(cell, seed, folder)
            if not records.get(cell, seed):
                yield cell, seed


def place(root: Path, cell: Cell, tier: Tier, seed: int) -> Path:
    """Return a run's folder; one of other weights or settings has another name."""
    return root / cell.name / f"{seed}-{identity(cell, tier, seed)}"


def start(cell: Cell, tier: Tier, seed: int, folder: Path, jobs: int) -> Warm:
    """Start a run in a process of its own, or continue it."""
    sets = [*tier.sets, *cell.sets, f"train.seed={seed}", "train.track=[]"]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return Warm(cell.algo, cell.reward, sets, folder, log(folder), threads)


def log(folder: Path) -> Path:
    """Return where a run's output goes: beside its folder, which must be free."""
    return folder.with_name(f"{folder.name}.log")

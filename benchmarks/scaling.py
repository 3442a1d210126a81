"""Compares the model of communication in docs/processes.md with what two processes hand over.

    python -m benchmarks.scaling [--epochs 3 | --project]

Trains in the emoji world on one process and on two, with adapters, with all weights and with
weights that both split, one thread each. Counts bytes where they are handed to collective
operations, reads what crossed the loopback interface, and puts both beside the formula; then writes
what the formula says of SD-Turbo on 8, 64 and 512 GPUs. Nothing else should run on the machine
meanwhile. `--project` computes the latter anew, and leaves what was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from diffrl.folder import environment

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "scaling.json"
SPLIT = "all weights, split"
KINDS = {
    "adapters": ("sdpo", ["adapter.kind=lora"]),
    "adapters, recomputed": ("sdpo", ["adapter.kind=lora", "speed.recompute=on"]),
    "adapters, DDPO": ("ddpo", ["adapter.kind=lora"]),
    "all weights": ("sdpo", ["adapter.kind=full"]),
    SPLIT: ("sdpo", ["adapter.kind=full", "speed.shard=weights"]),
}
"""Algorithm and settings of each: SDPO's rewards are of every step, DDPO's of the last alone."""

COMMON = ["train.overlap=off", "eval.images=2", "eval.every=0", "model.device=cpu"]

SD_TURBO = {"adapters": (829_952, 256), "all weights": (865_910_724, 686)}
SD_TURBO[SPLIT] = SD_TURBO["all weights"]
"""Trained weights and tensors: LoRA of rank 4, and the whole UNet."""

PER_GPU, QUERIES, UPDATES = 64, 3, 100
"""The sd-turbo preset on 4 GPUs, kept per GPU as their number grows."""

DRAWN, LEARNT = 16, 16
"""Rows of a call in sampling and in updates, as may fit where weights are split."""

INSIDE, BETWEEN, LATENCY, NODE = 450e9, 50e9, 20e-6, 8
"""Bytes per second of NVLink 4 in one direction, and of a 400 Gb/s network card for each GPU;
seconds for each stage of an exchange; GPUs of a machine."""


def main() -> None:
    """Train, count, project, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--project", action="store_true", help="compute only, measure nothing")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, help="kind and folder, of a process that trains")
    options = parser.parse_args()
    if options.child:
        train(*options.child, options.epochs)
        return
    if options.project:
        result = json.loads(options.output.read_text("utf-8"))
    else:
        result = {
            "environment": {k: v for k, v in environment().items() if k != "command"},
            "epochs": options.epochs,
            "runs": {kind: compared(kind, options.epochs) for kind in KINDS},
        }
        print(json.dumps(result["runs"], indent=1))
    options.output.write_text(json.dumps(result | projection(), indent=1) + "\n", "utf-8")


def projection() -> dict[str, Any]:
    """Return what is assumed, and what the formula says of SD-Turbo with that."""
    steps, trained = of_the_preset()
    return {
        "assumed": {
            "bytes_per_second_inside": INSIDE,
            "bytes_per_second_between": BETWEEN,
            "latency_seconds": LATENCY,
            "gpus_of_a_machine": NODE,
            "trajectories_per_gpu": PER_GPU,
            "updates": UPDATES,
            "steps": steps,
            "trained_steps": trained,
        },
        "sd_turbo": [
            projected(kind, gpus, steps, trained) for kind in SD_TURBO for gpus in (8, 64, 512)
        ],
    }


def of_the_preset() -> tuple[int, int]:
    """Return the steps of a trajectory in the sd-turbo preset, and how many of them are trained."""
    from diffrl.settings.resolve import resolve

    recipe = resolve("sdpo", ["pickscore"], "sd-turbo").recipe
    return recipe.sampler.steps, recipe.update_scheduler.trained(recipe.sampler.steps)


def train(kind: str, folder: str, epochs: int) -> None:
    """Train in this process, and write what it handed over."""
    import torch

    from diffrl import trainer
    from diffrl.settings.resolve import resolve

    torch.set_num_threads(1)
    sessions, build, calls = [], trainer.build, Counter[str]()

    def kept(*given: Any) -> Any:
        sessions.append(made := build(*given))
        unet, ranks, backward = made.pipeline.unet, made.ranks, made.ranks.backward
        unet.register_forward_pre_hook(lambda *_: calls.update(["calls"]))
        ranks.backward = lambda loss: (calls.update(["backward"]), backward(loss))
        return made

    trainer.build = kept
    algo, own = KINDS[kind]
    sets = [*own, *COMMON, f"train.epochs={epochs}"]
    run = trainer.run(resolve(algo, ["pickscore"], sets=sets), output=Path(folder) / "run")
    ranks, policy = sessions[0].ranks, sessions[0].policy
    lines, recipe = run.metrics[1:], sessions[0].settings.recipe
    found = {
        "handed": dict(ranks.exchange.handed),
        "saved": len(run.checkpoints),
        "calls": calls["calls"],
        "backward": calls["backward"],
        "trained": sum(p.numel() for p in policy.trained.values()),
        "tensors": len(policy.trained),
        "updates": sum(line["updates"] for line in lines),
        "steps": sum(recipe.sampler.for_epoch(e + 1).steps for e in range(epochs)),
        "queries": sum(line["reward_queries"] for line in lines),
        "each": epochs * (recipe.reward_predictor.name == "terminal"),
        "recomputed": sessions[0].settings.recomputes,
        "trajectories": sessions[0].settings.train.trajectories,
        "seconds": [line["seconds/sample"] + line["seconds/score"] + line["seconds/update"]
                    for line in lines],
    }  # fmt: skip
    Path(folder, f"{ranks.exchange.rank}.json").write_text(json.dumps(found))


def compared(kind: str, epochs: int) -> dict[str, Any]:
    """Return what one and two processes took, and bytes counted and by the formula."""
    with tempfile.TemporaryDirectory() as work:
        alone = launched(kind, Path(work) / "one", epochs, 1)[0]
        before = loopback()
        first, second = launched(kind, Path(work) / "two", epochs, 2)
        crossed = loopback() - before
    formula = by_formula(first, 2, split=kind == SPLIT)
    counted = {name: first["handed"].get(name, 0) for name in (*formula, "words", "weights")}
    return {
        "trained": first["trained"],
        "tensors": first["tensors"],
        "updates": first["updates"],
        "saved": first["saved"],
        "calls": first["calls"],
        "backward": first["backward"],
        "formula": formula,
        "counted": counted,
        "counted_by_the_second": second["handed"],
        "loopback": crossed,
        "seconds_per_epoch": {"1": alone["seconds"], "2": first["seconds"]},
    }


def by_formula(run: dict[str, Any], processes: int, split: bool) -> dict[str, float]:
    """Return what each process hands over in a run, by purpose.

    Of split weights it is what crosses the link of a process, at each call of the network and once
    more at each backward pass; there gradients do, too.
    """
    rows = math.ceil(run["trajectories"] / processes)
    part = 4 * run["trained"] * (processes - 1) / processes
    whole = {
        "gradients": 4 * run["trained"] * run["updates"],
        "flags": 4 * (run["tensors"] + 1) * run["updates"],
    }
    parts = {
        "weights of calls": part * (run["calls"] + run["backward"]),
        "gradients": part * run["backward"],
        "flags": 4 * run["updates"],
    }
    return {
        **(parts if split else whole),
        **({"signals": 4 * run["updates"]} if run["recomputed"] else {}),
        "rewards": 4 * (run["steps"] + run["each"]) * rows,
        "scores": (8 + 4) * run["queries"] / processes,
    }


def projected(kind: str, gpus: int, steps: int, trained_steps: int) -> dict[str, Any]:
    """Return what SD-Turbo's processes hand over and wait for in an epoch, by the formula.

    `link` are the bytes of weights and gradients that cross the link of a process.
    """
    trained, tensors = SD_TURBO[kind]
    run = {
        "trajectories": PER_GPU * gpus,
        "trained": trained,
        "tensors": tensors,
        "updates": UPDATES,
        "steps": steps,
        "backward": (backward := math.ceil(PER_GPU * trained_steps / LEARNT)),
        "calls": steps * math.ceil(PER_GPU / DRAWN) + 2 * backward,  # recomputed in half precision
        "recomputed": True,
        "each": 0,
        "queries": QUERIES * PER_GPU * gpus,
    }
    parts = by_formula(run, gpus, kind == SPLIT)
    rate = INSIDE if gpus <= NODE else BETWEEN
    waits = UPDATES * 3 * 2 * LATENCY * math.log2(gpus)  # gradients, flags and signals
    if kind == SPLIT:  # what waits for a block's weights is not known before it is measured
        link = parts["weights of calls"] + parts["gradients"]
    else:
        link = 2 * (gpus - 1) / gpus * parts["gradients"]  # a ring
    seconds = link / rate + waits
    return {"kind": kind, "gpus": gpus, "bytes": parts, "link": link, "seconds": seconds}


def launched(kind: str, folder: Path, epochs: int, processes: int) -> list[dict[str, Any]]:
    """Train in so many processes, and return what each of them wrote."""
    folder.mkdir()
    words = [sys.executable]
    if processes > 1:
        words += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    words += [__file__, "--child", kind, str(folder), "--epochs", str(epochs)]
    own = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(words, check=True, env={**os.environ, **own}, stdout=subprocess.DEVNULL)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def loopback() -> int:
    """Return the bytes that the loopback interface has carried, where Linux says so."""
    try:
        lines = Path("/proc/net/dev").read_text("utf-8").splitlines()
    except OSError:
        return 0
    line = next(line for line in lines if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


if __name__ == "__main__":
    main()

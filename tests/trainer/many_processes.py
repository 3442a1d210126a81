"""Trains several algorithms, one after the other, in each process that it is started in.

python many_processes.py FOLDER ALGORITHMS REWARD SETTING…: writes or continues FOLDER/<algorithm>/
(`ALGORITHM+recomputed`: with log-probs that are computed anew),
and writes weights, statistics and bytes handed over of each process to
FOLDER/<algorithm>-<rank>.pt.
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch

import diffrl.trainer as trainer
from diffrl.settings.resolve import resolve
from diffrl.speed.sharding import whole
from diffrl.trainer import loop


def picky(images, text):
    """Score brightness, but not that of every animal."""
    known = torch.tensor([len(one) % 3 > 0 for one in text])
    return torch.where(known, images.mean((1, 2, 3)), torch.nan)


CALLS = {"evaluating": 0, "sampling": 0}


def tired(images, text):
    """Score brightness, until it fails for good in one process: TIRED says in which phase."""
    phase = "evaluating" if len(text) == 3 else "sampling"  # as the tests' batches are
    CALLS[phase] += 1
    rank, most = {"evaluating": ("0", 2), "sampling": ("1", 1)}[phase]
    if os.environ.get("TIRED") == phase and os.environ["RANK"] == rank and CALLS[phase] > most:
        raise ValueError("tired of pictures")
    return images.mean((1, 2, 3))


def full(session):
    """Let memory end in one process, after its first optimizer steps of the epoch asked for.

    With a third word, `recomputing`, it ends where log-probs are recomputed, before those.
    """
    epoch, process, *where = os.environ.get("MEMORY_ENDS", "-1,-1").split(",")
    epoch, process = int(epoch), int(process)
    ranks, plain, before = session.ranks, session.ranks.backward, {}
    log_prob = session.policy.log_prob

    def looked_at(*given):
        if where and (session.epoch + 1, ranks.number) == (epoch, process):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return log_prob(*given)

    session.policy.log_prob = looked_at

    def backward(loss):
        started = before.setdefault(session.epoch, ranks.steps)
        if (session.epoch + 1, ranks.number) == (epoch, process) and ranks.steps > started:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        plain(loss)

    ranks.backward = backward
    return session


def held(weight):
    """Return how many numbers of a weight are in this process."""
    return getattr(weight, "to_local", lambda: weight)().numel()


def noting_idle_passes():
    """Return a list to which each call of `keep_pace` adds how many passes it made."""
    passes, plain = [], loop.keep_pace

    def noted(*given):
        passes.append(given[-1])
        plain(*given)

    loop.keep_pace = noted
    return passes


def main(folder, algorithms, reward, sets):
    torch.set_num_threads(1)
    built, build, idle = [], trainer.build, noting_idle_passes()
    trainer.build = lambda *given: built.append(full(build(*given))) or built[-1]
    if silence := os.environ.get("SILENCE"):
        trainer.Heartbeat = partial(trainer.Heartbeat, silence=float(silence), beat=0.5)
    for algo in algorithms.split(","):
        name, recomputed, _ = algo.partition("+")
        own_sets = [*sets, *(["speed.recompute=on"] if recomputed else [])]
        settings = resolve(name, [reward], sets=own_sets)
        own = Path(folder) / algo
        trainer.run(settings, **({"resume": own} if own.exists() else {"output": own}))
        session = built.pop()
        rank = session.ranks.accelerator.process_index
        found = {
            "weights": whole({n: p.detach() for n, p in session.policy.trained.items()}),
            "held": sum(held(p) for p in session.policy.trained.values()),
            "idle": sum(idle),
            "memory": {f"{k}": v for k, v in session.memory.history.items()},
            "handed": dict(session.ranks.exchange.handed),
        }
        idle.clear()
        torch.save(found, Path(folder) / f"{algo}-{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4:])

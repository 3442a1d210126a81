"""Starts `diffrl …` again and again by forking, with everything imported once.

Every fork is a process of its own, with nothing in it but imported modules, and dies as any other.
It notes in a shared file which part of the run it is in, so that it can be killed there.
"""

import json
import mmap
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

PHASES = ("starting", "sampling", "scoring", "updating", "evaluating", "saving")
WIDTH = 8
"""Bytes in the shared file for the current phase, and for how often each has begun."""


class Diary:
    """The shared file: which phase a process is in, and how often each has begun."""

    def __init__(self, path):
        size = WIDTH * (1 + len(PHASES))
        if not Path(path).exists():
            Path(path).write_bytes(bytes(size))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def enter(self, number):
        """Note that a phase begins; return the one before."""
        before = self.phase
        self._put(1 + number, self.count(number) + 1)
        self._put(0, number)
        return before

    def leave(self, before):
        """Note that the phase before goes on."""
        self._put(0, before)

    @property
    def phase(self):
        """The number of the current phase."""
        return self._get(0)

    def count(self, number):
        """How often a phase has begun."""
        return self._get(1 + number)

    def _get(self, place):
        return int.from_bytes(self._map[place * WIDTH : (place + 1) * WIDTH], "little")

    def _put(self, place, value):
        self._map[place * WIDTH : (place + 1) * WIDTH] = value.to_bytes(WIDTH, "little")


def noted(function, diary, phase):
    """Return a function that notes its phase while it runs."""
    number = PHASES.index(phase)

    def wrapper(*args, **kwargs):
        before = diary.enter(number)
        try:
            return function(*args, **kwargs)
        finally:
            diary.leave(before)

    return wrapper


def note_everything(diary):
    """Wrap the parts of a run."""
    from diffrl.judge import WeightedJudge
    from diffrl.registry import registry
    from diffrl.trainer import checkpoint, evaluating, loop

    for entry in registry().components("sampler").values():
        entry.value.__call__ = noted(entry.value.__call__, diary, "sampling")
    WeightedJudge.each = noted(WeightedJudge.each, diary, "scoring")
    loop.update = noted(loop.update, diary, "updating")
    evaluating.draw_and_score = noted(evaluating.draw_and_score, diary, "evaluating")
    checkpoint.save = noted(checkpoint.save, diary, "saving")


def child(order):
    """Be `diffrl`, with its output in files."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if order["most"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["most"], resource.RLIM_INFINITY))
    code = 1
    try:
        from diffrl.cli import main, train

        train.written = lambda folder, show: "left out"  # takes longer than all the rest
        note_everything(Diary(order["diary"]))
        main(order["argv"])
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve():
    """Fork for every order on stdin, and tell how children ended."""
    import torch

    torch.set_num_threads(1)
    import diffusers.loaders
    import peft
    import transformers.models.clip

    import diffrl.report
    import diffrl.trainer

    assert diffusers and peft and transformers and diffrl.report
    answer = os.fdopen(os.dup(1), "w")  # children write elsewhere
    print(json.dumps({"ready": True}), file=answer, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "argv" in order:
            pid = os.fork()
            if not pid:
                child(order)
            said = {"pid": pid}
        else:
            said = {"status": os.waitpid(order["wait"], 0)[1]}
        print(json.dumps(said), file=answer, flush=True)


if __name__ == "__main__":
    serve()

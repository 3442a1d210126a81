import json
import os
import subprocess
import sys

import pytest
import torch

from diffrl.trainer import checkpoint

SCRIPT = """
import sys, torch
from pathlib import Path
import diffrl.trainer as trainer
from diffrl.settings.resolve import resolve
torch.set_num_threads(1)

built = []
original = trainer.build
trainer.build = lambda *a: built.append(original(*a)) or built[-1]
settings = resolve(
    sys.argv[1], ["pickscore"], sets=sys.argv[2:], flags={"train.epochs": (2, "test")}
)
folder = trainer.run(settings).folder
session = built[0]
weights = {n: p.detach() for n, p in session.policy.trained.items()}
rank = session.ranks.accelerator.process_index
torch.save(weights, folder / f"rank-{rank}.pt")
"""


@pytest.mark.parametrize("algo", ["sdpo", "rebel"])
def test_two_processes_stay_in_step_and_share_their_rewards(algo, tiny_sets, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += ["--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), algo, "model.device=cpu", *tiny_sets],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "runs").iterdir()  # both processes chose the same
    first, second = (torch.load(folder / f"rank-{r}.pt", weights_only=True) for r in (0, 1))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in lines] == [0, 1, 2]
    assert lines[-1]["samples"] == 2 * 2 * 8
    state = checkpoint.read(folder / "checkpoints" / "2")
    assert len(state["random"]) == 2
    assert not torch.equal(state["random"][0]["rng"], state["random"][1]["rng"])

"""Processes whose gradients are not shared: the doctor sees it, and so does a run."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from diffrl.trainer.exchange import Exchange
torch.set_num_threads(1)

if sys.argv[1] == "broken":
    Exchange.gradients = lambda self, parameters, flag=0: flag
from diffrl.cli import main
try:
    main([
        "doctor", "--algo", "sdpo", "--reward", "jpeg-compressibility", "--json",
        *(word for one in sys.argv[2:] for word in ("--set", one)),
    ])
except SystemExit as stopped:
    open(f"code-{torch.distributed.get_rank()}", "w").write(str(stopped.code))
from diffrl.trainer import train
train("sdpo", "jpeg-compressibility", sets=sys.argv[2:], epochs=1, output="run", live=False)
"""


@pytest.mark.parametrize("build", ["broken", pytest.param("sound", marks=pytest.mark.slow)])
def test_processes_that_drift_apart_are_caught(build, tiny_sets, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launch, "--nproc_per_node", "2", str(script), build, *tiny_sets],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)  # of the main process alone
    verdicts = {one["check"]: one["verdict"] for one in said["findings"]}
    codes = [(tmp_path / f"code-{rank}").read_text() for rank in (0, 1)]
    notices = tmp_path / "run" / "notices.jsonl"
    if build == "sound":
        assert set(verdicts.values()) == {"pass"}, said
        assert codes == ["0", "0"]
        assert not notices.exists()
        return
    assert {name for name, verdict in verdicts.items() if verdict == "fail"} == {
        "processes in step"
    }
    assert codes == ["1", "1"]
    rules = [json.loads(line)["rule"] for line in notices.read_text().splitlines()]
    assert rules == ["processes_in_step"]

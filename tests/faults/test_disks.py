"""Disks that are full or cannot be written to, on a real file system of a few megabytes.

It is made in a namespace of its own, where anybody may mount one; where that is forbidden, a limit
on the size of files stands for it.
"""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffrl.shelf import damage, saved

from .harness import assert_same, finish

HERE = Path(__file__).parent
SCRIPT = """
set -e
mount -t tmpfs -o size={size} none "$DISK"
code=0
"$@" --output "$DISK/run" > first.out 2> first.err || code=$?
echo $code > first.rc
cp -r "$DISK/run" kept 2> /dev/null || true
mount -o remount,ro "$DISK"
code=0
"$PYTHON" -m diffrl train --resume "$DISK/run" > ro.out 2> ro.err || code=$?
echo $code > ro.rc
mount -o remount,rw,size=1g "$DISK"
if [ -e "$DISK/run/settings.toml" ]; then
    "$PYTHON" -m diffrl train --resume "$DISK/run" > last.out 2> last.err || true
else
    "$@" --output "$DISK/run" > last.out 2> last.err || true
fi
cp -r "$DISK/run" whole
"""


def may_mount():
    words = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(words, check=False).returncode


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's namespaces")
@pytest.mark.parametrize(
    "room", [*(pytest.param(r, marks=pytest.mark.slow) for r in ("60k", "400k", "1300k")), "2500k"]
)
def test_a_full_disk_costs_nothing_that_was_saved(room, reference, tmp_path, monkeypatch):
    """What does not fit is named with what is safe; with more room the run goes on to its end."""
    if not may_mount():
        pytest.skip("this system lets nobody make a namespace")
    whole = reference("sdpo")
    (tmp_path / "disk").mkdir()
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    words += [SCRIPT.format(size=room), "sh", sys.executable, "-m", "diffrl", *whole.argv]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=300)
    said = (tmp_path / "first.err").read_text()
    assert (tmp_path / "first.rc").read_text().strip() == "3", said
    assert "No space left on device" in said and "when it can be written, " in said
    assert "Traceback" not in said, said
    assert all(damage(path) is None for path in saved(tmp_path / "kept"))
    assert saved(tmp_path / "kept") or room != "2500k"  # the largest holds one checkpoint of 1.3 MB
    said = (tmp_path / "ro.err").read_text()
    assert (tmp_path / "ro.rc").read_text().strip() in ("2", "3"), said
    assert "Traceback" not in said and "error: " in said, said
    assert_same(whole, tmp_path / "whole")


@pytest.mark.parametrize("limit", [3_000, 30_000, "that of the last checkpoint"])
def test_files_that_may_not_grow_are_told(limit, zygote, reference, tmp_path):
    """`ulimit -f` lets no file become larger."""
    whole, folder = reference("sdpo"), tmp_path / "run"
    if late := isinstance(limit, str):
        limit = (whole.folder / "checkpoints/5/trainer_state.safetensors").stat().st_size - 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    victim = zygote.start(*whole.argv, "--output", folder, most=limit)
    code = zygote.status(victim.pid)
    assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    assert code == 3, victim.said
    assert "File too large" in victim.said and "Traceback" not in victim.said
    assert all(damage(path) is None for path in saved(folder))
    assert [path.name for path in saved(folder)] == (["2", "4"] if late else [])
    finish(zygote, whole, folder)
    assert_same(whole, folder)

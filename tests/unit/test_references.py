"""What a reference names, at which commit, and what is remembered of it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import diffrl
from diffrl.builtin.references import find, missing, opened, recording
from diffrl.errors import CheckpointMissing, CheckpointRefused

OLD, NEW = "1" * 40, "2" * 40
HERE = Path(diffrl.__file__).parent.parent


def cached(cache, repo, commits, refs):
    """Lay a repository out as huggingface_hub does: `commits` maps each to its files."""
    home = cache / f"models--{repo.replace('/', '--')}"
    for name, commit in refs.items():
        (home / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / name).write_text(commit)
    for commit, files in commits.items():
        for name, content in files.items():
            place = home / "snapshots" / commit / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    return home


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache in which `org/clip` has two commits, `main` being the newer one, and a tag."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    commits = {commit: {"config.json": commit.encode()} for commit in (OLD, NEW)}
    return cached(cache, "org/clip", commits, {"main": NEW, "v1": OLD, "refs/pr/3": OLD})


def clip(ref):
    return find(ref, "config.json", "CLIP", "--reward-checkpoint NAME=")


@pytest.mark.parametrize(
    ("ref", "commit", "pinned"),
    [
        ("org/clip", NEW, False),
        ("org/clip@main", NEW, False),
        ("org/clip@v1", OLD, False),
        ("org/clip@refs/pr/3", OLD, False),
        (f"org/clip@{OLD}", OLD, True),
    ],
)
def test_a_revision_is_settled_to_its_commit_and_remembered(hub, ref, commit, pinned):
    with recording() as found:
        source = clip(ref)
        assert opened() == {ref: commit}
    assert (source.where, source.at, source.pinned) == ("org/clip", {"revision": commit}, pinned)
    assert source.file.read_bytes() == commit.encode()
    assert found == {ref: commit} and opened() == {}


@pytest.mark.parametrize("ref", ["org/clip@v9", "org/none", f"org/clip@{'3' * 40}"])
def test_what_the_cache_lacks_is_told_in_one_line(hub, ref):
    with pytest.raises(CheckpointMissing) as stopped:
        clip(ref)
    told = str(stopped.value)
    assert told.startswith(f"cannot load the CLIP {ref!r}: not in the local cache")
    assert ("at revision" in told) == ("@" in ref) and "\n" not in told
    assert "Point to a local copy with --reward-checkpoint NAME=FOLDER" in told


def test_a_transport_that_fails_in_its_own_way_is_told_in_one_line(hub, monkeypatch):
    class ProxyError(Exception):
        """As httpx raises it: neither an OSError nor a ValueError."""

    def fails(*_, **__):
        raise ProxyError("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(CheckpointMissing, match=r"'org/new': .*403 Forbidden"):
        clip("org/new")


@pytest.mark.parametrize(
    "ref", ["org/../clip", "org/clip@../main", "org/clip@a/../../b", "org/clip@/etc", "a/b/c"]
)
def test_no_reference_climbs_out_of_the_cache(hub, ref):
    with pytest.raises(CheckpointMissing, match="no such file or folder"):
        clip(ref)


def test_a_folder_that_is_there_counts_before_the_hub(hub, tmp_path):
    (tmp_path / "org" / "clip").mkdir(parents=True)
    assert clip("org/clip").at == {}
    with pytest.raises(CheckpointMissing, match="org/clip is a folder here, which has no revis"):
        clip("org/clip@v1")


def test_folders_and_files_are_remembered_by_what_they_hold(hub, tmp_path):
    folder, file = tmp_path / "mine", tmp_path / "head.safetensors"
    folder.mkdir()
    file.write_bytes(b"abc")
    seen = []
    for size in (1, 2):
        (folder / "w.safetensors").write_bytes(b"x" * size)
        with recording() as found:
            clip("mine"), clip(str(file)), clip("bundled:pickscore")
        seen.append(found)
    assert seen[0][str(file)] == f"sha256 {hashlib.sha256(b'abc').hexdigest()}"
    assert seen[0]["mine"].startswith("sha256 of names and sizes ")
    assert seen[0]["mine"] != seen[1]["mine"]
    assert seen[0]["bundled:pickscore"] == seen[1]["bundled:pickscore"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("head.pt#sha256=12", "expected 64 hexadecimal digits behind #sha256="),
        (f"mine#sha256={'a' * 64}", "is for a single file; pin a hub repository by its commit"),
        (f"org/clip#sha256={'a' * 64}", "is for a single file; pin a hub repository by its commit"),
    ],
)
def test_a_checksum_is_of_a_single_file(hub, tmp_path, ref, message):
    (tmp_path / "mine").mkdir()
    with pytest.raises(CheckpointRefused, match=message):
        clip(ref)


def test_what_is_not_there_is_a_problem_before_anything_loads(hub):
    assert missing("a.b", "./gone") == ["a.b = './gone': no such file or folder"]
    assert missing("a.b", "org/clip@v1") == []
    assert "expected 64 hexadecimal digits" in missing("a.b", "x.pt#sha256=1")[0]
    assert "nothing bundled is called" in missing("a.b", "bundled:nothing")[0]


SCRIPT = """
import sys
import diffrl
sets = [
    f"model.ref={sys.argv[1]}", f"rewards.pickscore.checkpoint={sys.argv[2]}",
    "train.trajectories=4", "sampler.steps=2", "eval.images=2", "eval.shown=1", "eval.steps=[1]",
    "eval.watch=[]", "eval.every=0",
]
diffrl.train("sdpo", "pickscore", sets=sets, epochs=1, output=sys.argv[3], live=False)
"""


def test_a_run_writes_down_the_commits_of_what_it_read(tmp_path):
    from diffrl.testing.tiny import save_tiny_clip, save_tiny_pipeline

    cache = tmp_path / "cache"
    for repo, save in (("org/pipe", save_tiny_pipeline), ("org/taste", save_tiny_clip)):
        home = cached(cache, repo, {}, {"main": NEW})
        save(home / "snapshots" / NEW)
    refs = ["org/pipe", f"org/taste@{NEW}"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *refs, tmp_path / "run"],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1",
             "PYTHONPATH": f"{HERE}{os.pathsep}{HERE / 'plugins'}"},
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "run" / "environment.json").read_text("utf-8"))
    assert written["sources"] == dict.fromkeys(refs, NEW)

"""What references name: `bundled:<name>`, a file or folder, or a hub id, also at a revision.

    sd-folder        stabilityai/sd-turbo        org/name@v1.0        weights.pt#sha256=<64 digits>

What is on disk counts before the hub. A revision is a branch, a tag or a commit of the hub.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffrl.checksums import MARK, PUBLISHED, sha256, split
from diffrl.errors import CheckpointMissing, CheckpointRefused, shown
from diffrl.paths import there

HUB = re.compile(
    r"(?P<repo>\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(?P<revision>(?!.*\.\.)\w[\w./-]*))?", re.ASCII
)
WEIGHTS = (".pt", ".pth", ".safetensors")
COMMIT = re.compile(r"[0-9a-f]{40}")

_opened: ContextVar[dict[str, str] | None] = ContextVar("opened", default=None)


@dataclass(frozen=True)
class Source:
    """Where weights are, at last.

    Args:
        ref: as it was written.
        where: what `from_pretrained` is given: a file or folder, or a hub id.
        file: the file itself, the folder, or the file of the hub that was asked for.
        commit: of the hub; empty for what is on disk.
        pinned: whether the reference itself names that commit.
        sha256: that the file must have; empty: not said.
        option: what another reference is given with: `--model `.
    """

    ref: str
    where: str
    file: Path
    commit: str = ""
    pinned: bool = False
    sha256: str = ""
    option: str = ""

    @property
    def at(self) -> dict[str, Any]:
        """What `from_pretrained` must be told beside."""
        return {"revision": self.commit} if self.commit else {}

    @property
    def accepted_by(self) -> str:
        """What accepts a pickled file, but for its SHA-256."""
        return f"{self.option}{split(self.ref)[0]}"

    def unreadable(self, what: str, error: Exception) -> CheckpointMissing:
        """Return the error for weights that are there but cannot be loaded."""
        return CheckpointMissing(
            f"cannot load the {what} {self.ref!r} ({_one_line(error)}). "
            f"Point to another copy, with safetensors, by {self.option}FOLDER"
        )


def find(ref: str, file: str, what: str, option: str) -> Source:
    """Return where a reference points; of a hub, `file` is fetched and settles the commit.

    Raises:
        CheckpointMissing: if nothing is there.
        CheckpointRefused: if what is behind `#sha256=` is no checksum, or is of no single file.
    """
    at, digest = split(ref)
    path = local(at)
    if digest and (path.is_dir() if path else not file.endswith(WEIGHTS)):
        raise CheckpointRefused(
            f"{ref!r}: {MARK} is for a single file; pin a hub repository by its commit, "
            f"owner/name@<commit>"
        )
    if path:
        source = Source(ref, str(path), path, sha256=digest, option=option)
        return _noted(source, _fingerprint(path))
    hub = HUB.fullmatch(at)
    if hub is None:
        raise unreachable(what, ref, option, FileNotFoundError("no such file or folder"))
    repo, revision = hub["repo"], hub["revision"]
    if revision and there(repo):
        raise CheckpointMissing(f"{ref!r}: {repo} is a folder here, which has no revisions")
    from huggingface_hub import hf_hub_download

    try:
        found = Path(hf_hub_download(repo, file, revision=revision))
    except Exception as error:  # of a hub's transport, which has errors of its own
        raise unreachable(what, ref, option, error) from error
    commit = _commit(found)
    pinned = revision == commit and COMMIT.fullmatch(commit) is not None
    return _noted(Source(ref, repo, found, commit, pinned, digest, option), commit)


def local(ref: str) -> Path | None:
    """Return the file or folder that a reference names, if it is on disk.

    Raises:
        CheckpointMissing: if no such weights are bundled.
    """
    scheme, _, name = ref.partition(":")
    if scheme != "bundled":
        return there(ref)
    from diffrl import emoji

    places = {
        "pipeline": emoji.PIPELINE,
        "pickscore": emoji.PICKSCORE,
        "aesthetic": emoji.AESTHETIC,
        "hpsv2": emoji.HPSV2,
        "imagereward": emoji.IMAGEREWARD,
    }
    if name not in places:
        raise CheckpointMissing(
            f"nothing bundled is called {shown(ref)}; there are {sorted(places)}"
        )
    return places[name]


def is_hub_id(ref: str) -> bool:
    """Return whether a reference with an owner, `owner/name`, may be of a hub."""
    hub = HUB.fullmatch(ref)
    return hub is not None and "/" in hub["repo"] and not Path(hub["repo"]).parent.is_dir()


def missing(field: str, ref: str) -> list[str]:
    """Return one line if a reference is a path and nothing is there, or a pickle nobody pinned."""
    try:
        at, digest = split(ref)
        path = local(at)
    except (CheckpointMissing, CheckpointRefused) as error:
        return [f"{field} = {shown(ref)}: {error}"]
    if path is None:
        gone = at.startswith((".", "/", "~"))
        return [f"{field} = {shown(ref)}: no such file or folder"] if gone else []
    if digest or path.is_dir() or path.suffix == ".safetensors":
        return []
    with path.open("rb") as file:
        found = sha256(file)
    if found in PUBLISHED:
        return []
    return [
        f"{field} = {shown(ref)}: is a pickled file that nobody vouched for; if it is what its "
        f"author published, accept it with --set {field}={ref}{MARK}{found}"
    ]


@contextmanager
def recording() -> Iterator[dict[str, str]]:
    """Give a mapping that is filled, meanwhile, with what every reference turned out to be.

    Of a hub that is the commit. Of a file it is the SHA-256 of its bytes, of a folder that of the
    names and sizes of its files, which is quick and tells a changed one nearly always.
    """
    found: dict[str, str] = {}
    before = _opened.set(found)
    try:
        yield found
    finally:
        _opened.reset(before)


def opened() -> dict[str, str]:
    """Return what has been recorded so far, if anybody records."""
    return dict(_opened.get() or {})


def unreachable(what: str, ref: str, option: str, error: Exception) -> CheckpointMissing:
    """Return the error for weights that cannot be had, with its cause in one line."""
    hub = HUB.fullmatch(split(ref)[0])
    lacks = f" at revision {hub['revision']!r}" if hub and hub["revision"] else ""
    return CheckpointMissing(
        f"cannot load the {what} {ref!r}: not in the local cache{lacks} and not reachable. "
        f"Point to a local copy with {option}FOLDER. ({_one_line(error)})"
    )


def _noted(source: Source, content: str) -> Source:
    if (found := _opened.get()) is not None:
        found[source.ref] = content
    return source


def _fingerprint(path: Path) -> str:
    """Return what tells a file or folder from a changed one; nothing if nobody asks."""
    if _opened.get() is None:
        return ""
    if path.is_file():
        with path.open("rb") as file:
            return f"sha256 {sha256(file)}"
    sizes = {
        p.relative_to(path).as_posix(): p.stat().st_size for p in path.rglob("*") if p.is_file()
    }
    packed = json.dumps(sizes, sort_keys=True).encode()
    return f"sha256 of names and sizes {hashlib.sha256(packed).hexdigest()}"


def _commit(path: Path) -> str:
    """Return the commit in a path of the cache: `models--owner--name/snapshots/<commit>/…`."""
    parts = path.parts
    home = max(i for i, part in enumerate(parts) if part.startswith("models--"))
    return parts[home + 2]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"

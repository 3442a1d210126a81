"""Packs reference numbers (JSON) into small `.npz` files, and opens them again.

    python tests/parity/pack.py FOLDER

FOLDER holds the JSON files named in `FILES`. Rectangular lists of numbers become arrays; the rest
stays JSON, in which an array is named by `{"@": its key}`. Non-finite numbers are strings in the
source and become floats.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy

DATA = Path(__file__).parent / "data"
FILES = (
    "schedules",
    "ddim_step_with_logprob",
    "sdpo_pipeline_trajectories",
    "sdpo_anchor_similarity",
    "sdpo_dense_rewards_returns",
    "stat_trackers",
    "sdpo_loss",
    "ddpo_loss",
    "d3po_loss",
    "rebel_general_loss",
    "rebel_rlcm_loss",
    "prdp",
    "rlcm_lcm_step",
    "rewards_pixels",
)
PARTS = {"prdp": ("formula_derived", "prdp")}
LEFT_OUT = {"rewards_pixels": "aesthetic_mlp"}  # it derives from published weights
NOT_FINITE = {"nan", "inf", "-inf"}


def pack(source: Path, into: Path, part: str | None = None) -> None:
    """Write one packed file, of a whole JSON file or of one of its parts."""
    arrays: dict[str, numpy.ndarray] = {}
    content = json.loads(source.read_text())
    content.pop(LEFT_OUT.get(source.stem), None)
    tree = _fold(content if part is None else content[part], arrays)
    text = numpy.frombuffer(json.dumps(tree).encode(), dtype=numpy.uint8)
    numpy.savez_compressed(into, tree=text, **arrays)


def unpack(name: str) -> Any:
    """Return a packed file as it was, with arrays in place of lists of numbers."""
    with numpy.load(DATA / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    return _unfold(json.loads(arrays.pop("tree").tobytes()), arrays)


def _fold(value: Any, arrays: dict[str, numpy.ndarray]) -> Any:
    if isinstance(value, dict):
        return {k: _fold(v, arrays) for k, v in value.items()}
    if not isinstance(value, list):
        return value
    array = _array(value)
    if array is None:
        return [_fold(v, arrays) for v in value]
    key = f"a{len(arrays)}"
    arrays[key] = array
    return {"@": key}


def _array(value: list[Any]) -> numpy.ndarray | None:
    def number(v: Any) -> bool:
        if isinstance(v, list):
            return bool(v) and all(map(number, v))
        return v in NOT_FINITE if isinstance(v, str) else isinstance(v, (int, float))

    def finite(v: Any) -> Any:
        return [finite(x) for x in v] if isinstance(v, list) else float(v) if v in NOT_FINITE else v

    if not value or not all(map(number, value)):
        return None
    try:
        array = numpy.array(finite(value))
    except ValueError:
        return None
    if array.dtype.kind != "i":
        return array
    small = abs(array).max(initial=0) < 2**15
    return array.astype(numpy.int16 if small else numpy.int32)


def _unfold(value: Any, arrays: dict[str, numpy.ndarray]) -> Any:
    if isinstance(value, list):
        return [_unfold(v, arrays) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"@"}:
        return arrays[value["@"]]
    return {k: _unfold(v, arrays) for k, v in value.items()}


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for name in FILES:
        file, part = PARTS.get(name, (name, None))
        pack(Path(sys.argv[1]) / f"{file}.json", DATA / f"{name}.npz", part)

"""Nested values with tensors in them, as one JSON and one safetensors file: nothing is pickled."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from diffrl.speed.copying import on_cpu
from diffrl.tensors import Tensor

TENSOR, TUPLE, PAIRS = "tensor", "tuple", "pairs"
"""What stands for a value that JSON has no word for; all other mappings have texts as keys."""


def write_packed(value: Any, stem: Path) -> None:
    """Write a value as `<stem>.json`, and its tensors as `<stem>.safetensors`."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(value, tensors))
    stem.with_suffix(".json").write_text(text + "\n", "utf-8")
    write_tensors(tensors, stem.with_suffix(".safetensors"))


def read_packed(stem: Path) -> Any:
    """Return what `write_packed` wrote.

    Raises:
        OSError: if a file is missing.
        ValueError: if a file is not what it should be.
    """
    described, held = stem.with_suffix(".json"), stem.with_suffix(".safetensors")
    try:
        content = json.loads(described.read_text("utf-8"))
        tensors = load_file(held)
        return _unpacked(content, tensors)
    except SafetensorError as error:
        raise ValueError(f"{held.name}: {error}") from None
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{described.name}: {error!r}") from None


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors.

    Raises:
        OSError: if the file cannot be written.
    """
    try:
        save_file(on_cpu(tensors), path)
    except SafetensorError as error:
        raise as_os_error(error, path) from None


def as_os_error(error: SafetensorError, path: Path) -> OSError:
    """Return the error of the system that safetensors reports as a text."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]) if number else 5, str(error), str(path))


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    if torch.is_tensor(value):
        own = value.detach()
        own = own.clone() if own.device.type == "cpu" else own  # others are copied later, at once
        tensors[name := str(len(tensors))] = own
        return {TENSOR: name}
    if isinstance(value, tuple):
        return {TUPLE: [_packed(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_packed(v, tensors) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(k, str) for k in value) and not {TENSOR, TUPLE, PAIRS} & set(value):
            return {k: _packed(v, tensors) for k, v in value.items()}
        return {PAIRS: [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}: {value!r}")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpacked(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {TENSOR}:
        return tensors[value[TENSOR]]
    if set(value) == {TUPLE}:
        return tuple(_unpacked(v, tensors) for v in value[TUPLE])
    if set(value) == {PAIRS}:
        return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in value[PAIRS]}
    return {k: _unpacked(v, tensors) for k, v in value.items()}

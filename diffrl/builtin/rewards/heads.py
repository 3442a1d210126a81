"""Reading weights of rewards from disk, and the linear heads that sit on their embeddings."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from diffrl.builtin.references import Source
from diffrl.checksums import check
from diffrl.errors import CheckpointMissing
from diffrl.tensors import Tensor


def read_weights(source: Source) -> dict[str, Tensor]:
    """Return the state dict of a safetensors or PyTorch file, in fp32, without running its code.

    A dict under `state_dict` is unwrapped, as open_clip's training checkpoints have it.

    Raises:
        CheckpointMissing: if the file is neither, or holds other things than tensors.
        CheckpointRefused: if it is a pickle that nobody vouched for, or not the one that was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = source.file
    safe = path.suffix == ".safetensors"
    try:
        with path.open("rb") as file:
            check(file, path, source.sha256, safe or source.pinned, source.accepted_by)
            if safe:
                found = load_file(path)
            else:
                found = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise CheckpointMissing(_unreadable(path, " ".join(str(error).split())[:160])) from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(torch.is_tensor(v) for v in found.values()):
        raise CheckpointMissing(_unreadable(path, "it holds other things than tensors"))
    return {str(k): v.float() if v.is_floating_point() else v for k, v in found.items()}


def linear_layers(weights: Mapping[str, Tensor], path: Path, prefix: str = "") -> nn.Sequential:
    """Return the layers `<prefix>layers.<i>` in order; dropout between them is left out.

    Raises:
        CheckpointMissing: if there are none, or a layer lacks its weight or bias.
    """
    start = f"{prefix}layers."
    order = sorted({int(k[len(start) :].split(".")[0]) for k in weights if k.startswith(start)})
    layers = []
    for i in order:
        try:
            weight, bias = weights[f"{start}{i}.weight"], weights[f"{start}{i}.bias"]
        except KeyError as error:
            raise CheckpointMissing(_unreadable(path, f"no {error.args[0]}")) from None
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers.append(layer)
    if not layers:
        raise CheckpointMissing(_unreadable(path, f"no {start}<i>.weight"))
    return nn.Sequential(*layers).requires_grad_(False)


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load a model's weights; what the file holds besides is ignored.

    Raises:
        CheckpointMissing: naming what the file lacks, or what has another shape.
    """
    own = model.state_dict()
    lacking = [k for k in own if k not in weights]
    if lacking:
        raise CheckpointMissing(_unreadable(path, f"{len(lacking)} missing, first {lacking[0]}"))
    odd = [k for k in own if own[k].shape != weights[k].shape]
    if odd:
        shapes = f"{tuple(weights[odd[0]].shape)}, expected {tuple(own[odd[0]].shape)}"
        raise CheckpointMissing(_unreadable(path, f"{odd[0]} has shape {shapes}"))
    model.load_state_dict({k: weights[k] for k in own})


def _unreadable(path: Path, why: str) -> str:
    return f"cannot read the weights {path}: {why}"

"""Adapters whose last product adds itself to what the layer gives."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import nn

from diffrl.tensors import Float, Tensor

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where torch keeps what looks at a layer's inputs, outputs and gradients."""


def fuse_adapters(unet: Any) -> None:
    """Let the adapters of linear layers be added in place, by the product that computes them.

    peft computes `W x + b`, `B (A x)`, a multiple of that, and the sum of both: three passes over
    what a layer gives, besides the products, and one more backwards. Here the product with `B` is
    given its factor and adds to `W x + b` as it goes. In half precision the sum is rounded once
    then, where peft rounds it up to three times.
    """
    from peft.tuners.lora import Linear

    for module in unet.modules():
        if type(module) is Linear:  # those of quantised layers are others
            module.forward = MethodType(_adding, module)


def _adding(layer: Any, x: Float[Tensor, "*rows given"], *more: Any, **options: Any) -> Tensor:
    """Return a layer's output with its adapter's; where it is about more than that, peft's own."""
    name = None if more or options or x.ndim < 2 else _only(layer, x)
    if name is None:
        return type(layer).forward(layer, x, *more, **options)
    rows = x.flatten(0, -2)
    out: Tensor = layer.base_layer(rows)  # fresh, and no backward pass asks what was in it
    inner, weight = layer.lora_A[name](rows), layer.lora_B[name].weight
    out.addmm_(inner.to(out.dtype), weight.to(out.dtype).t(), alpha=layer.scaling[name])
    return out.unflatten(0, x.shape[:-1])


def _only(layer: Any, x: Tensor) -> str | None:
    """Return the adapter of a layer that is to be added to it, if it is a single plain one."""
    active = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(active) != 1 or active[0] not in layer.lora_A:
        return None
    name = active[0]
    plain = isinstance(layer.lora_dropout[name], nn.Identity) and name not in layer.lora_variant
    first, second = layer.lora_A[name], layer.lora_B[name]
    cast = layer.cast_input_dtype_enabled and x.dtype != first.weight.dtype
    seen = _is_seen(layer.base_layer) or _is_seen(second)
    return name if plain and not cast and not seen and second.bias is None else None


def _is_seen(linear: nn.Module) -> bool:
    """Return whether somebody looks at what a layer gives, or it is not a plain linear one."""
    return type(linear) is not nn.Linear or any(getattr(linear, hooks) for hooks in HOOKS)

"""Shape annotations that cost nothing until torch is there.

Plugins are listed without loading torch, so their modules must import without it. All modules use
`from __future__ import annotations`, hence these names are evaluated only by a runtime checker,
and by then torch is loaded. Letters: n rows, T denoising steps, m tuples of k rows, s steps of one
minibatch, b pictures, `*latent` the latent's own axes (channels, height, width).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "torch" in sys.modules:
    from jaxtyping import Bool, Float, Int
    from torch import Generator, Tensor
    from torch import device as Device
else:

    class Tensor:
        """Stands for `torch.Tensor` where torch is not loaded."""

        def __class_getitem__(cls, _: object) -> type:
            return cls

    Bool = Float = Int = Generator = Device = Tensor

__all__ = ["Bool", "Device", "Float", "Generator", "Int", "Tensor", "put"]


def put(value: Tensor, device: Device) -> Tensor:
    """Return a tensor on a device; a GPU of CUDA is not waited for.

    That takes pinned memory, which CUDA holds until it is copied. Elsewhere a copy that is not
    waited for may read what is freed meanwhile.
    """
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)

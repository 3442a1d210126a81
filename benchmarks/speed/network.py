"""The network as the published SDPO code calls it: adapters, attention, denoising step.

Source: the descriptions of diffusers 0.17.1's `LoRAAttnProcessor` and of ZiyiZhang27/sdpo's
`ddim_step_with_logprob`, written anew.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from diffrl.tensors import Float, Tensor

PARTS = ("to_q", "to_k", "to_v", "to_out")


class LowRank(nn.Module):
    """An adapter's branch, computed in fp32 whatever its input is."""

    def __init__(self, inside: int, outside: int, rank: int, scale: float) -> None:
        super().__init__()
        self.down = nn.Linear(inside, rank, bias=False)
        self.up = nn.Linear(rank, outside, bias=False)
        self.scale = scale
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what is added to the projection."""
        out = self.up(self.down(hidden.to(self.down.weight.dtype)))
        return self.scale * out.to(hidden.dtype)


class PlainAttention(nn.Module):
    """Attention as three products with an explicit softmax, an adapter beside each projection."""

    def __init__(self, attention: Any, rank: int, scale: float) -> None:
        super().__init__()
        wide, narrow = attention.to_q.out_features, attention.to_k.in_features
        own = attention.to_q.in_features
        self.to_q = LowRank(own, wide, rank, scale)
        self.to_k = LowRank(narrow, wide, rank, scale)
        self.to_v = LowRank(narrow, wide, rank, scale)
        self.to_out = LowRank(wide, own, rank, scale)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """Return the attention's output, before the block adds its input."""
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states) + self.to_q(hidden_states)
        key = attn.to_k(seen) + self.to_k(seen)
        value = attn.to_v(seen) + self.to_v(seen)
        query, key, value = (attn.head_to_batch_dim(x) for x in (query, key, value))
        weights = torch.baddbmm(
            torch.empty(len(query), query.shape[1], key.shape[1], dtype=query.dtype,
                        device=query.device),
            query, key.transpose(-1, -2), beta=0, alpha=attn.scale,
        ).softmax(-1)  # fmt: skip
        hidden = attn.batch_to_head_dim(torch.bmm(weights.to(value.dtype), value))
        return attn.to_out[1](attn.to_out[0](hidden) + self.to_out(hidden))


def adapt(unet: Any, rank: int, alpha: float) -> dict[str, PlainAttention]:
    """Give every attention of a UNet its processor; return them by the attention's name."""
    made = {}
    for name, module in unet.named_modules():
        if hasattr(module, "set_processor") and hasattr(module, "to_q"):
            device = module.to_q.weight.device
            made[name] = PlainAttention(module, rank, alpha / rank).to(device, torch.float32)
            module.set_processor(made[name])
    return made


def ddim_step(
    table: Float[Tensor, "train"],
    steps: int,
    prediction: str,
    output: Tensor,
    t: Tensor,
    x: Tensor,
    given: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next latent, the clean one and the log-prob of a step with eta 1.

    Args:
        table: cumulative alphas, on the CPU, where the timesteps have to come to.
        steps: T.
        prediction: what the output means.
        output: the network's.
        t: the timestep, or one for each row.
        x: latents before the step.
        given: latents after it; otherwise they are drawn.
    """
    before = torch.clamp(t - len(table) // steps, 0, len(table) - 1)
    now, then = table.gather(0, t.cpu().reshape(-1)), table.gather(0, before.cpu().reshape(-1))
    a, a_next = (v.reshape(-1, 1, 1, 1).expand(x.shape).to(x.device) for v in (now, then))
    if prediction == "epsilon":
        clean, noise = (x - (1 - a) ** 0.5 * output) / a**0.5, output
    elif prediction == "v_prediction":
        clean = a**0.5 * x - (1 - a) ** 0.5 * output
        noise = a**0.5 * output + (1 - a) ** 0.5 * x
    else:
        clean, noise = output, (x - a**0.5 * output) / (1 - a) ** 0.5
    std = ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
    mean = a_next**0.5 * clean + (1 - a_next - std**2) ** 0.5 * noise
    drawn = given
    if drawn is None:
        drawn = mean + std * torch.randn(output.shape, dtype=output.dtype, device=output.device)
    density = -((drawn.detach() - mean) ** 2) / (2 * std**2) - torch.log(std)
    density = density - torch.log(torch.sqrt(2 * torch.as_tensor(math.pi)))
    return drawn.to(x.dtype), clean.to(x.dtype), density.mean(dim=(1, 2, 3))

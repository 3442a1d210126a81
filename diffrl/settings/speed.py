"""Means of speed and of memory, in a section of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffrl.settings.section import Section


class SpeedSettings(Section):
    """Means of speed and of memory; see [speed settings](speed-settings.md)."""

    attention: Literal["auto", "fused", "plain"] = Field(
        "auto",
        description="fused: PyTorch's kernels; plain: products of matrices; auto: plain on a CPU.",
    )
    channels_last: bool = Field(
        False, description="Whether the UNet, the VAE and what they are given are channels-last."
    )
    half_norms: bool = Field(
        False,
        description="Whether the UNet's norms give half precision where its weights are in it; "
        "inside they sum in fp32.",
    )
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = Field(
        "off",
        description="Whether torch.compile makes kernels of the UNet and the decoder, and how; "
        "reduce-overhead adds CUDA graphs.",
    )
    graphs: bool = Field(
        False,
        description="Whether the UNet is recorded as CUDA graphs: the same kernels, started at "
        "once.",
    )
    merge: bool = Field(
        False,
        description="Whether adapters are added to the weights while sampling; moves the log-prob "
        "gap.",
    )
    fused_adapters: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether an adapter's last product adds itself to what its layer gives; auto: "
        "without speed.compile, which joins them itself.",
    )
    recompute: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether ratios start from log-probs that the update's own calls compute, and "
        "not from those of sampling: one more forward pass; auto: in half precision.",
    )
    deduplicate: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether rows that begin a group with the same noise are predicted once at "
        "their first step; auto: on a CPU, without speed.compile.",
    )
    cache_text: bool = Field(True, description="Whether each prompt is encoded once only.")
    tf32: bool = Field(
        False, description="Whether CUDA multiplies fp32 matrices in TF32, with 10 bits."
    )
    low_memory: bool = Field(
        False,
        description="Recomputes activations, decodes one by one, keeps rollouts and the text "
        "encoder off the GPU: slower, same gradients; tiles change pictures larger than the VAE's.",
    )
    shard: str = Field(
        "off",
        description="What of full finetuning several processes split between them: off, gradients "
        "(and the optimizer), or weights, too; or a DeepSpeed configuration (.json) that says it.",
    )

    @property
    def fuses_adapters(self) -> bool:
        """Whether adapters are added by their last product."""
        chosen = self.fused_adapters
        return chosen == "on" or (chosen == "auto" and self.compile == "off")

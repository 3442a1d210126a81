"""Checks of the network: its three sets of weights, merged adapters, and adapters on disk."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from diffrl.adapters import LORA_FILE, save_weights
from diffrl.doctor.finding import Finding, found, skipped
from diffrl.doctor.rehearsal import Rehearsal, apart, inputs, predictions
from diffrl.doctor.weights import ROUNDING, perturb
from diffrl.pipeline import decoder
from diffrl.speed.formats import DTYPES
from diffrl.tensors import Float, Tensor
from diffrl.trainer.session import Session, open_pipeline, policy_of

LEVELS = {"fp32": 2.0, "bf16": 6.0, "fp16": 6.0}
"""Mean difference of two pictures that rounding explains, in levels of 255."""

SHARE = {"fp32": 0.1, "bf16": 0.5, "fp16": 0.5}
"""The same as a share of what the adapters change, which must be larger."""

STEPS = 4
"""Denoising steps of a picture, at most."""


def weights(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """See that old, live and base weights are three where they should be, and one where not."""
    policy, rounding = session.policy, ROUNDING[session.settings.model.precision]
    old, base = (predictions(session, rehearsal, kind) for kind in ("old", "base"))
    perturb(session, rehearsal)
    live = predictions(session, rehearsal)
    same = {
        "base, as live moves": apart(predictions(session, rehearsal, "base"), base),
        "old, as live moves": apart(predictions(session, rehearsal, "old"), old),
    }
    if session.settings.adapter.kind == "lora":
        same["base and no adapters"] = apart(_without_adapters(session, rehearsal), base)
    policy.follow(0.0)
    same["old and live, once it follows"] = apart(predictions(session, rehearsal, "old"), live)
    different = {"live and base": apart(live, base)}
    perturb(session, rehearsal, seed=1)
    same["old, as live moves on"] = apart(predictions(session, rehearsal, "old"), live)
    problems = [f"{n}: {d:.1e} apart" for n, d in same.items() if not d <= rounding]
    problems += [f"{n}: only {d:.1e} apart" for n, d in different.items() if not d > rounding]
    most, least = max(same.values()), min(different.values())
    measured = f"same where they should be within {most:.1e}, live and base {least:.2f} apart"
    advice = (
        "old and base must be copies of the trained weights, not the same tensors; base must be "
        "the untrained network; policy.follow must copy live into old"
    )
    limit = f"{rounding:g} std of the predictions"
    return [found("weights", "; ".join(problems) or measured, limit, not problems, advice)]


def _without_adapters(session: Session, rehearsal: Rehearsal) -> Float[Tensor, "..."]:
    unet = session.pipeline.unet
    unet.disable_adapters()
    try:
        return predictions(session, rehearsal)
    finally:
        unet.enable_adapters()


def merged_adapters(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """Add the adapters to a copy of the network, and compare its predictions."""
    name, settings = "merged adapters", session.settings
    if settings.adapter.kind != "lora":
        return [skipped(name, "every weight is trained: there are no adapters")]
    perturb(session, rehearsal)
    live = predictions(session, rehearsal)
    unet = copy.deepcopy(session.pipeline.unet)
    unet.fuse_lora()  # from now on only the sums are used
    parts = ("vae", "text_encoder", "tokenizer", "scheduler", "vae_scale_factor")
    shown = {part: getattr(session.pipeline, part) for part in parts}
    model = settings.model
    policy = policy_of(SimpleNamespace(unet=unet, **shown), unet, model.size, model.guidance)
    with torch.no_grad():
        at = inputs(session, rehearsal)
        merged = torch.stack([policy.predict(x, t, cond) for x, t, cond in at])
    off, rounding = apart(merged, live), ROUNDING[model.precision]
    advice = (
        "merging must add alpha / rank times B A to each weight; see adapter.alpha and "
        "adapter.rank, the version of peft, and that the precision can hold the sum"
    )
    measured = f"predictions {off:.1e} std apart"
    return [found(name, measured, f"{rounding:g} std", off <= rounding, advice)]


def saved_adapter(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """Load what a run saves in diffusers without diffrl, and compare a picture."""
    name, model = "saved adapter", session.settings.model
    if not session.ranks.is_main:
        return [skipped(name, "looked at by the first process")]
    fresh: Any = open_pipeline(model.ref, session.policy.device, DTYPES[model.precision])
    before = _picture(session, fresh, rehearsal)
    perturb(session, rehearsal)
    live = _picture(session, session.pipeline, rehearsal)
    with tempfile.TemporaryDirectory() as folder:
        save_weights(session.pipeline.unet, Path(folder))
        if session.settings.adapter.kind == "lora":
            fresh.load_lora_weights(folder, weight_name=LORA_FILE, use_safetensors=True)
        else:
            unet = type(fresh.unet).from_pretrained(Path(folder) / "unet", use_safetensors=True)
            fresh.unet = unet.to(session.policy.device, DTYPES[model.precision])
    off = 255 * float((_picture(session, fresh, rehearsal) - live).abs().mean())
    effect = 255 * float((before - live).abs().mean())
    limit = min(LEVELS[model.precision], SHARE[model.precision] * effect)
    measured = f"pictures {off:.2g} of 255 levels apart, which training moves by {effect:.2g}"
    advice = (
        "the file must name each layer as diffusers does and hold alpha and rank; see "
        "diffrl.adapters.save_weights, and the versions of diffusers and peft"
    )
    return [found(name, measured, f"{limit:.2g} levels", effect > 0 and off <= limit, advice)]


def _picture(session: Session, pipeline: Any, rehearsal: Rehearsal) -> Float[Tensor, "1 3 h w"]:
    """Return the picture that a diffusers pipeline draws of the first prompt, on fixed noise."""
    model, rng = session.settings.model, torch.Generator().manual_seed(0)
    pipeline.text_encoder.to(session.policy.device)  # which speed.low_memory puts away
    noise = session.policy.normal((1,), rng).to(DTYPES[model.precision])
    with torch.no_grad():
        latents = pipeline(
            rehearsal.rollout.prompts.text[0],
            num_inference_steps=min(STEPS, len(rehearsal.rollout.times)),
            guidance_scale=model.guidance,
            latents=noise,
            generator=rng,
            output_type="latent",
        ).images
        return decoder(pipeline.vae)(latents.float())

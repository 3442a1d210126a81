"""What every run checks of itself on its way; `diffrl doctor` checks more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import torch

from diffrl.events import Noticed
from diffrl.settings import Settings
from diffrl.tensors import Tensor
from diffrl.trainer.session import Session

SHARE = 10
"""The log-ratio of unchanged weights should be below the clip range divided by this."""

SAMPLING = 1e-2
"""As far as half precision may move log-probs between sampling and training, in nats a number of
the latent. Adapters that are merged in bf16 move them further: the pictures are another model's."""


def of_epoch(settings: Settings, epoch: int, metrics: Mapping[str, int | float]) -> list[Noticed]:
    """Return what an epoch's metrics say is wrong with the run."""
    found = (
        gap(settings, epoch, metrics),
        sampling_gap(epoch, metrics),
        no_step(settings, epoch, metrics),
    )
    return [notice for notice in found if notice is not None]


def gap(settings: Settings, epoch: int, metrics: Mapping[str, int | float]) -> Noticed | None:
    """Return a notice if weights that have not changed have changed log-probs."""
    clip = settings.recipe.loss.log_ratio_limit
    limit = clip / SHARE if clip else SAMPLING
    measured = metrics.get("log_prob_gap/max", 0.0)
    if measured <= limit:
        return None
    bound = f"a tenth of the clip range {clip:g}" if clip else f"{SAMPLING:g}"
    why = "precision, batch shape and speed.merge move it"
    if settings.recomputes:
        why += " between two calls"
    elif clip:
        why += ", speed.recompute=on makes up for it"
    else:
        why += ", or the sampler tells other log-probs than it drew by"
    message = f"the log-ratio of unchanged weights is {measured:.1e}, more than {bound}; {why}"
    return Noticed(epoch, "check", "log_prob_gap", message, "warn", measured, limit)


def sampling_gap(epoch: int, metrics: Mapping[str, int | float]) -> Noticed | None:
    """Return a notice if recomputed log-probs are far from those of sampling."""
    measured = metrics.get("log_prob_gap/sampling", 0.0)
    if measured <= SAMPLING:
        return None
    message = (
        f"recomputed log-probs are off those of sampling by {measured:.1e}, more than "
        f"{SAMPLING:g}: the pictures are those of another model; speed.merge in half precision "
        f"does it, or a sampler that is called otherwise"
    )
    return Noticed(epoch, "check", "sampling_gap", message, "warn", measured, SAMPLING)


def no_step(settings: Settings, epoch: int, metrics: Mapping[str, int | float]) -> Noticed | None:
    """Return a notice if an epoch ended without an optimizer step: nothing was learned in it."""
    if epoch == 0 or metrics.get("updates"):
        return None
    skipped = int(metrics.get("skipped", 0))
    if skipped and settings.model.precision == "fp16" and epoch == 1:
        return None  # until the scaler has found its scale
    if skipped:
        why = f": the gradients of all {skipped} were not finite"
    else:
        scheduler = settings.recipe.update_scheduler.name
        why = f"; update scheduler {scheduler!r} yielded no minibatch"
    message = f"epoch {epoch} made no optimizer step{why}"
    return Noticed(epoch, "check", "no_step", message, "warn", 0.0, 1.0)


def of_training(session: Session) -> list[Noticed]:
    """Return what the first updates of this process say is wrong with its weights; then nothing.

    LoRA's A has a gradient from the second update on, since B starts at zero: where some weights
    were not reached by a single update, the next epoch is waited for.
    """
    if session.checked:
        return []
    state, trained = session.ranks.optimizer.state, session.policy.trained
    unreached = [n for n, p in trained.items() if not _moved(state.get(p, {}))]
    updates = max((int(s["step"]) for s in state.values() if "step" in s), default=0)
    if unreached and updates < 2:
        return []
    session.checked = True
    own = {id(p) for p in trained.values()}
    held = [n for n, p in _weights(session.pipeline) if p.grad is not None and id(p) not in own]
    found = []
    if unreached:
        text = f"no gradient has reached {_names(unreached)} in {updates} updates"
        found.append(_failed(session, "gradient_missing", text, len(unreached)))
    if held:
        text = f"weights that are not trained hold a gradient: {_names(held)}"
        found.append(_failed(session, "gradient_elsewhere", text, len(held)))
    prints = [] if session.ranks.in_step else session.ranks.everyones([digest(trained)])
    if (different := len(set(prints))) > 1:
        text = f"the processes have {different} different sets of weights after an epoch"
        found.append(_failed(session, "processes_in_step", text, different, limit=1))
    return found


def digest(weights: Mapping[str, Tensor]) -> str:
    """Return a fingerprint of weights; equal weights have the same one."""
    fingerprint = sha256()
    for name, weight in weights.items():
        fingerprint.update(name.encode())
        flat = weight.detach().cpu().contiguous().flatten()
        fingerprint.update(flat.view(torch.uint8).numpy().tobytes())
    return fingerprint.hexdigest()


def _failed(session: Session, rule: str, text: str, count: int, limit: int = 0) -> Noticed:
    message = f"{text}; diffrl doctor looks closer"
    return Noticed(session.epoch, "check", rule, message, "warn", float(count), float(limit))


def _moved(state: Mapping[str, Any]) -> bool:
    """Return whether the optimizer has seen a gradient of a weight that was not zero."""
    return any(bool(state[name].any()) for name in ("exp_avg", "exp_avg_sq") if name in state)


def _weights(pipeline: Any) -> list[tuple[str, Tensor]]:
    """Return the weights of a pipeline, with their names."""
    parts = ("unet", "vae", "text_encoder")
    return [(f"{m}.{n}", p) for m in parts for n, p in getattr(pipeline, m).named_parameters()]


def _names(names: Iterable[str]) -> str:
    first, *others = names
    return first + (f" and {len(others)} more" if others else "")

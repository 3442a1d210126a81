"""Checks of what training does: log-probs, gradients, processes in step, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from diffrl.doctor.finding import Finding, found, skipped
from diffrl.doctor.held import peak, recorded, total_memory
from diffrl.doctor.rehearsal import Rehearsal
from diffrl.doctor.weights import forget_gradients, parameters, perturb
from diffrl.expected import as_loss
from diffrl.speed.compiling import sized_as_in_updates
from diffrl.tensors import Tensor
from diffrl.trainer.checks import SAMPLING, SHARE, digest
from diffrl.trainer.recompute import mode
from diffrl.trainer.session import Session
from diffrl.types import Batch

HEAD_ROOM = 0.9
"""Share of a device's memory that a run may need."""

TRIES = 5
"""Attempts at finite gradients in fp16, each with a scale of a sixteenth."""


def log_prob_gap(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """Compare log-probs of training and of sampling, with the same weights: their ratio is one."""
    name, limit = "log-prob gap", rehearsal.recipe.loss.log_ratio_limit
    if not limit:
        return [skipped(name, f"loss {rehearsal.recipe.loss.name!r} has no clip range")]
    if "log_prob" not in rehearsal.recipe.sampler.gives:
        return [skipped(name, f"sampler {rehearsal.recipe.sampler.name!r} gives no log_prob")]
    sampling, again, within = [], [], mode(session.settings)
    for batch in rehearsal.chunks():
        assert batch.log_prob is not None
        live = session.policy.log_prob(batch)
        if recorded(session) and live.requires_grad:  # the next call would wait for it
            live.backward(torch.zeros_like(live))
        own = live.detach()
        del live  # with its graph, or it would lie beside the next one's
        sampling.append((own - batch.log_prob).abs())
        if within is not None:  # as a run does before its updates
            with within(), sized_as_in_updates():
                again.append((own - session.policy.log_prob(batch).detach()).abs())
    forget_gradients(session)
    gap, off = _largest(again or sampling), _largest(sampling)
    count = sum(one.numel() for one in sampling)
    measured = f"largest |log-ratio| of unchanged weights {gap:.1e}, of {count} steps"
    wanted = f"{limit / SHARE:.1e}, a tenth of the clip range"
    if again:
        measured += f"; log-probs are recomputed, those of sampling are off by {off:.1e}"
        wanted += f"; sampling {SAMPLING:.0e}"
    advice = (
        "the log-prob in training must be that of sampling: take --set speed.recompute=on or "
        "--precision fp32, make train.sample_batch a multiple of the rows in a backward pass, and "
        "see that the network has no dropout and is called in the same way in both; or widen "
        "loss.clip"
    )
    good = gap <= limit / SHARE and off <= (SAMPLING if again else limit / SHARE)
    return [found(name, measured, wanted, good, advice)]


def _largest(values: Sequence[Tensor]) -> float:
    return max(float(one.nan_to_num(torch.inf).max()) for one in values)


def gradient(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """See that gradient reaches every trained weight, and no other one."""
    full = session.settings.adapter.kind == "full"
    unet = dict(session.pipeline.unet.named_parameters())
    wanted = {n for n in unet if full or "lora_" in n}
    at_once = {n for n in wanted if full or "lora_A" not in n}
    fresh = not full and all(not unet[n].any() for n in at_once)
    problems = []
    if not rehearsal.pieces:
        problems.append(
            f"update scheduler {rehearsal.recipe.update_scheduler.name!r} yields nothing"
        )
    elif not any(bool(batch.advantage.any()) for batch in rehearsal.batches()):
        problems.append("all advantages are zero")
    else:
        from_loss = _reached(session, lambda: _loss(session, rehearsal))
        need = at_once if fresh else wanted
        problems += _unlike("the loss", need, from_loss, allowed=wanted)
    perturb(session, rehearsal)
    from_probe = _reached(session, lambda: _probe(session, rehearsal))
    problems += _unlike("a probe", wanted, from_probe, allowed=wanted)
    if strange := set(session.policy.trained) ^ wanted:
        problems.append(f"{_names(strange)}: trained and adapter are not the same")
    measured = "; ".join(problems) or f"all {len(wanted)} trained tensors, no other"
    advice = (
        "see which weights require gradient (adapter.kind), that no forward pass detaches its "
        "output or runs under no_grad, and that rewards of one prompt differ (train.sample_batch)"
    )
    limit = "finite and not zero for each trained tensor, none for others"
    return [found("gradient", measured, limit, not problems, advice)]


def ranks_in_step(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """Make one update with each process's own data, and compare the weights of all processes."""
    name, ranks, policy = "processes in step", session.ranks, session.policy
    if ranks.count == 1:
        return [skipped(name, "one process")]
    before, after = digest(policy.trained), ""
    for _ in range(2 * TRIES):  # in fp16 the first steps may be left out
        _loss(session, rehearsal)
        ranks.commit()
        after = digest(policy.trained)
        if all(ranks.everyones([after != before])):
            break
    moved, different = after != before, len(set(ranks.everyones([after])))
    measured = f"{different} different set(s) of weights in {ranks.count} processes" + (
        "" if moved else "; the update moved none"
    )
    advice = (
        "gradients of all processes must be added up before each optimizer step; processes need "
        "the same weights, settings and library versions"
    )
    return [found(name, measured, "1, after one update", moved and different == 1, advice)]


def memory(session: Session, rehearsal: Rehearsal) -> list[Finding]:
    """Compare the most memory that a batch needs with what the device has.

    The second backward pass finds the optimizer's state in memory, too.
    """
    for batch in rehearsal.batches()[:1] * 2:
        session.ranks.backward(rehearsal.recipe.loss(session.policy, batch).value)
        session.ranks.commit()
    device = session.ranks.accelerator.device
    used = max(rehearsal.held, peak(device, recorded(session)))
    total = total_memory(device)
    if device.type != "cuda":  # one memory for all processes
        used = sum(session.ranks.everyones([used]))
    where = f"device {device}" if device.type == "cuda" else "this machine"
    measured = f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB ({used / total:.0%}) of {where}"
    advice = (
        "lower train.sample_batch if sampling needs the most, train.micro_batch if training does, "
        "train.decode_batch if decoding or rewards do: none of them changes the result"
    )
    return [found("memory", measured, f"{HEAD_ROOM:.0%}", used <= HEAD_ROOM * total, advice)]


def _loss(session: Session, rehearsal: Rehearsal) -> None:
    """Send the gradient of the first optimizer step."""
    for piece, batch in zip(rehearsal.pieces, rehearsal.batches(), strict=True):
        loss = rehearsal.recipe.loss
        out = as_loss(loss, loss(session.policy, batch))
        session.ranks.backward(piece.weight * out.value)


def _probe(session: Session, rehearsal: Rehearsal) -> None:
    """Send the gradient of a sum of log-probs, or of predictions, in the middle of the path."""
    chunks = rehearsal.chunks()[: len(rehearsal.rollout.times)]
    session.ranks.backward(_figure(session, chunks[len(chunks) // 2]))


def _figure(session: Session, batch: Batch) -> Tensor:
    if batch.log_prob is not None and bool(batch.log_prob.isfinite().all()):
        return session.policy.log_prob(batch).sum()
    noised, target = session.policy.noise(batch.x0, batch.t)
    return (session.policy.predict(noised, batch.t, batch.cond) - target).square().mean()


def _reached(session: Session, send: Callable[[], None]) -> dict[str, bool]:
    """Return the weights that hold a gradient, and whether it is finite and not zero."""
    scaler, held = session.ranks.accelerator.scaler, dict[str, nn.Parameter]()
    for _ in range(TRIES):
        forget_gradients(session)
        send()
        held = {n: p for n, p in parameters(session).items() if p.grad is not None}
        if scaler is None or all(map(_finite, held.values())):
            break
        scaler.update(scaler.get_scale() / 16)
    found = {n: _finite(p) and _nonzero(p) for n, p in held.items()}
    forget_gradients(session)
    return found


def _finite(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.isfinite().all())


def _nonzero(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def _unlike(source: str, need: set[str], reached: dict[str, bool], allowed: set[str]) -> list[str]:
    """Return what is wrong with the weights that a gradient reached, one line each."""
    problems = []
    if missing := {n for n in need if not reached.get(n)}:
        problems.append(f"{source} does not reach {_names(missing)}")
    if others := set(reached) - allowed:
        problems.append(f"{source} reaches {_names(others)}, which is not trained")
    return problems


def _names(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return first + (f" and {len(others)} more" if others else "")

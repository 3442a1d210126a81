"""What stages return, looked at before it is believed: a plugin may err without a sign of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch

from diffrl.errors import PluginError, RewardError, SettingsError, shown
from diffrl.stages import AdvantageEstimator, Loss, RewardPredictor, Sampler, UpdateScheduler
from diffrl.tensors import Generator
from diffrl.types import Advantages, LossOut, Memory, Minibatch, Prompts, Rewards, Rollout

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""Types of indices."""


def rows_side_by_side(sampler: Sampler, rollout: Any, text: Sequence[str], group: int) -> None:
    """Refuse a rollout whose rows are not each prompt's, `group` times, or whose sizes disagree.

    Raises:
        PluginError: naming the sampler, and the first row that is another prompt's, or how groups
            are numbered that cannot be told apart.
    """
    _of_type(rollout, Rollout, f"sampler {sampler.name!r}")
    _sizes(sampler, rollout)
    wanted = tuple(one for one in text for _ in range(group))
    if (given := rollout.prompts.text) == wanted:
        return _numbered(sampler, rollout.prompts, max(1, group))
    if len(given) != len(wanted):
        raise PluginError(
            f"sampler {sampler.name!r} gave {len(given)} row(s) for {len(text)} prompt(s); "
            f"expected each {group} time(s)"
        )
    row = next(i for i, (a, b) in enumerate(zip(given, wanted, strict=True)) if a != b)
    raise PluginError(
        f"sampler {sampler.name!r} gave {given[row]!r} in row {row}; expected {wanted[row]!r}: "
        f"each prompt {group} time(s), side by side"
    )


def _numbered(sampler: Sampler, prompts: Prompts, group: int) -> None:
    """Refuse groups without a number of their own, by which their rows are compared later."""
    who = f"sampler {sampler.name!r}"
    _of_type(numbers := prompts.group, torch.Tensor, f"{who}: its prompts.group")
    if tuple(numbers.shape) != (len(prompts),) or numbers.dtype not in WHOLE:
        raise PluginError(
            f"{who} gave prompts.group as {numbers.dtype} of shape {tuple(numbers.shape)}; "
            f"expected a whole number for each of {len(prompts)} row(s)"
        )
    said = numbers.tolist()
    firsts = said[::group]
    if len(set(firsts)) < len(firsts) or said != [one for one in firsts for _ in range(group)]:
        raise PluginError(
            f"{who} gave prompts.group {shown(said, 40)}; expected the same number for the {group} "
            f"row(s) of each prompt, and another for the next one, even if its text is the same"
        )


def _of_type(given: object, wanted: type, who: str) -> None:
    if not isinstance(given, wanted):
        raise PluginError(f"{who} gave {_in_words(given)}; expected {wanted.__name__}")


def _in_words(given: object) -> str:
    """Return what somebody gave, in a few words."""
    if isinstance(given, torch.Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    simple = given is None or isinstance(given, int | float | str)
    return shown(given, 40) if simple else type(given).__name__


def _sizes(sampler: Sampler, rollout: Rollout) -> None:
    """Refuse parts of a rollout that do not have one entry for each row, and for each step."""
    rows, steps, path = len(rollout), len(rollout.times), rollout.path
    sizes: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {"x0": (rollout.x0, (rows,))}
    if path is not None:
        sizes["path.x"] = path.x, (rows, steps + 1)
        sizes["path.log_prob"] = path.log_prob, (rows, steps)
        if path.x0_hat is not None:
            sizes["path.x0_hat"] = (path.x0_hat, (rows, steps))
    if rollout.labels is not None:
        sizes["labels"] = rollout.labels, (rows,)
    for name, (given, wanted) in sizes.items():
        _of_type(given, torch.Tensor, f"sampler {sampler.name!r}: its {name}")
        alike = given.shape if name == "labels" else given.shape[: len(wanted)]
        if tuple(alike) != wanted:
            raise PluginError(
                f"sampler {sampler.name!r} gave {name} of shape {tuple(given.shape)}; expected "
                f"{wanted} first, of {rows} row(s) and {steps} step(s)"
            )


def noiseless(rollout: Rollout) -> frozenset[int]:
    """Return the denoising steps to which the kernel adds no noise, and so gives no density."""
    if rollout.path is None:
        return frozenset()
    kernel, stored = rollout.path.kernel, rollout.path.x
    x = stored.new_zeros(1, len(rollout.times), *stored.shape[2:])  # there may be no row left
    std = kernel.transition(x, rollout.times.to(x.device)[None], x).std
    blank = (std == 0).expand_as(x)[0].flatten(1).all(1)
    return frozenset(blank.nonzero()[:, 0].tolist())


def refuse_noiseless(blank: frozenset[int], whole: Minibatch, rollout: Rollout) -> None:
    """Refuse to train on steps that have no density.

    Raises:
        SettingsError: naming the step and what to do.
    """
    if blank and (used := blank.intersection(whole.steps.flatten().tolist())):
        step, count = min(used), len(rollout.times)
        raise SettingsError(
            [f"denoising step {step + 1} of {count}, at timestep {float(rollout.times[step]):g}, "
             f"draws no noise, so that there is nothing to train on; leave it out "
             f"(update_scheduler.skip_last=1, if it is the last), take fewer steps, or a model "
             f"whose scheduler does not end at timestep 0 (timestep_spacing trailing)"]
        )  # fmt: skip


def one_for_each_step(
    predictor: RewardPredictor, rewards: Any, rollout: Rollout, drop: bool
) -> Rewards:
    """Return rewards without gradient, refused unless there is a finite one for every step.

    Args:
        predictor: that gave them.
        rewards: for the rollout's rows.
        rollout: that they are of.
        drop: whether rows that are not finite are left out later.

    Raises:
        RewardError: naming the predictor, and the prompt and step of the first that is not finite.
    """
    name = predictor.name
    _of_type(rewards, Rewards, f"reward predictor {name!r}")
    _of_type(value := rewards.value, torch.Tensor, f"reward predictor {name!r}: its value")
    wanted = (len(rollout), len(rollout.times))
    if value.shape != wanted or not value.is_floating_point():
        raise RewardError(
            f"reward predictor {name!r} gave {value.dtype} of shape {tuple(value.shape)}; expected "
            f"a floating point number for each of {wanted[0]} rows and {wanted[1]} steps"
        )
    for what, sizes in (("grad", rollout.x0.shape), ("each", (len(rollout), None))):
        _beside(getattr(rewards, what), tuple(sizes), f"reward predictor {name!r}: its {what}")
    if not drop and not bool((good := value.isfinite()).all()):
        row, step = (~good).nonzero()[0].tolist()
        raise RewardError(
            f"reward predictor {name!r} gave {float(value[row, step])} for prompt "
            f"{rollout.prompts.text[row]!r} at denoising step {step}; expected a finite number"
        )
    return replace(rewards, value=value.detach()) if value.requires_grad else rewards


def _beside(given: object, wanted: tuple[int | None, ...], who: str) -> None:
    """Refuse what lies beside rewards in another shape than is wanted; None: of any size."""
    if given is None:
        return
    _of_type(given, torch.Tensor, who)
    assert isinstance(given, torch.Tensor)
    sizes = tuple(given.shape)
    kept = tuple(a if b is None else b for a, b in zip(sizes, wanted, strict=False))
    if sizes != kept or len(sizes) != len(wanted):
        shape = ", ".join("r" if size is None else str(size) for size in wanted)
        raise RewardError(f"{who} has shape {sizes}; expected ({shape})")


def as_rewards_are(
    estimator: AdvantageEstimator, given: object, rewards: Rewards
) -> tuple[Advantages, Memory]:
    """Return advantages and memory, refused unless there is a finite one for every reward.

    Raises:
        PluginError: naming the estimator.
    """
    name = f"advantage estimator {estimator.name!r}"
    if not (isinstance(given, tuple) and len(given) == 2):
        raise PluginError(f"{name} gave {_in_words(given)}; expected (Advantages, Memory)")
    advantages, memory = given
    _of_type(advantages, Advantages, name)
    _of_type(memory, Memory, f"{name}: as its memory, it")
    _of_type(value := advantages.value, torch.Tensor, f"{name}: its value")
    if value.shape != rewards.value.shape or not value.is_floating_point():
        raise PluginError(
            f"{name} gave {value.dtype} of shape {tuple(value.shape)} for rewards of shape "
            f"{tuple(rewards.value.shape)}; expected a floating point number for each"
        )
    if not bool((good := value.isfinite()).all()):
        raise PluginError(
            f"{name} gave {int((~good).sum())} advantage(s) that are not finite, of finite rewards"
        )
    for key, past in memory.history.items():
        if not (isinstance(key, tuple) and [type(part) for part in key] == [str, int]):
            raise PluginError(
                f"{name} remembers something by the key {shown(key)}; expected (prompt, number of "
                f"steps), which checkpoints can hold"
            )
        _of_type(past, torch.Tensor, f"{name}: its memory of {key!r}")
    if advantages.each is None and rewards.each is not None:
        advantages = replace(advantages, each=rewards.each)  # which losses may vote by
    return advantages, memory


def minibatches(
    scheduler: UpdateScheduler, prompts: Prompts, advantages: Advantages, rng: Generator
) -> Iterator[Minibatch]:
    """Yield an epoch's minibatches, each looked at by `as_tuples`.

    Raises:
        PluginError: behind them, if the gradients of the last would be left over.
    """
    steps, last = advantages.value.shape[1], None
    for one in scheduler(prompts, advantages, rng):
        last = as_tuples(scheduler, one, prompts, steps)
        yield last
    if last is not None and not last.commit:
        error = PluginError(
            f"update scheduler {scheduler.name!r} gave a last minibatch with commit=False; its "
            f"gradients would reach the next epoch"
        )
        error.everywhere = True  # every process goes through the minibatches of all
        raise error


def as_tuples(scheduler: UpdateScheduler, one: object, prompts: Prompts, steps: int) -> Minibatch:
    """Return a minibatch on the CPU, refused unless it names rows and steps that there are.

    Args:
        scheduler: that yielded it.
        one: the minibatch.
        prompts: of all rows of the epoch.
        steps: T of their trajectories.

    Raises:
        PluginError: naming the scheduler.
    """
    name = f"update scheduler {scheduler.name!r}"
    _of_type(one, Minibatch, name)
    assert isinstance(one, Minibatch)
    for what, most in (("rows", len(prompts)), ("steps", steps)):
        _of_type(at := getattr(one, what), torch.Tensor, f"{name}: its {what}")
        if at.ndim != 2 or at.dtype not in WHOLE or len(at) != len(one.rows) or not at.numel():
            raise PluginError(
                f"{name} gave {what} as {at.dtype} of shape {tuple(at.shape)}; expected whole "
                f"numbers of shape m × {'k' if what == 'rows' else 's'}, for m tuples"
            )
        if int(at.min()) < 0 or int(at.max()) >= most:
            raise PluginError(
                f"{name} gave {what} from {int(at.min())} to {int(at.max())}; there are {most}, "
                f"counted from 0"
            )
    if not scheduler.whole_groups and one.rows.shape[1] != scheduler.arity:
        raise PluginError(
            f"{name} gave tuples of {one.rows.shape[1]} row(s); it says arity = {scheduler.arity}"
        )
    if not math.isfinite(one.weight):
        raise PluginError(f"{name} gave the weight {one.weight!r}; expected a finite number")
    return replace(one, rows=one.rows.cpu().long(), steps=one.steps.cpu().long())


def as_loss(loss: Loss, out: object) -> LossOut:
    """Return what a loss gave, refused unless it is one number that can be minimised.

    Raises:
        PluginError: naming the loss.
    """
    name = f"loss {loss.name!r}"
    _of_type(out, LossOut, name)
    assert isinstance(out, LossOut)
    _of_type(value := out.value, torch.Tensor, f"{name}: its value")
    if value.shape != () or not value.requires_grad:
        graph = "" if value.requires_grad else " without a gradient"
        raise PluginError(
            f"{name} gave a value of shape {tuple(value.shape)}{graph}; expected one number, of "
            f"shape (), that depends on the policy's log_prob, predict or replay"
        )
    metrics = out.metrics.items() if isinstance(out.metrics, Mapping) else [(None, out.metrics)]
    for key, said in metrics:
        number = isinstance(said, Real) or (torch.is_tensor(said) and said.numel() == 1)
        if not isinstance(key, str) or not number:
            raise PluginError(
                f"{name} gave the metric {_in_words(key)}: {_in_words(said)}; expected one number "
                f"by a name"
            )
    if "value" in out.metrics:
        raise PluginError(f"{name} gave a metric 'value', which is the loss itself; rename it")
    return out

"""What stages return, looked at before it is believed: a plugin may err without a sign of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffrl.errors import PluginError, RewardError, SettingsError
from diffrl.stages import AdvantageEstimator, RewardPredictor, Sampler
from diffrl.types import Advantages, Minibatch, Rewards, Rollout


def rows_side_by_side(sampler: Sampler, rollout: Rollout, text: Sequence[str], group: int) -> None:
    """Refuse a rollout whose rows are not each prompt's, `group` times.

    Raises:
        PluginError: naming the sampler and the first row that is another prompt's.
    """
    wanted = tuple(one for one in text for _ in range(group))
    if (given := rollout.prompts.text) == wanted:
        return
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
    predictor: RewardPredictor, rewards: Rewards, rollout: Rollout, drop: bool
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
    value, name = rewards.value, predictor.name
    wanted = (len(rollout), len(rollout.times))
    if value.shape != wanted or not value.is_floating_point():
        raise RewardError(
            f"reward predictor {name!r} gave {value.dtype} of shape {tuple(value.shape)}; expected "
            f"a floating point number for each of {wanted[0]} rows and {wanted[1]} steps"
        )
    if not drop and not bool((good := value.isfinite()).all()):
        row, step = (~good).nonzero()[0].tolist()
        raise RewardError(
            f"reward predictor {name!r} gave {float(value[row, step])} for prompt "
            f"{rollout.prompts.text[row]!r} at denoising step {step}; expected a finite number"
        )
    return replace(rewards, value=value.detach()) if value.requires_grad else rewards


def as_rewards_are(
    estimator: AdvantageEstimator, advantages: Advantages, rewards: Rewards
) -> Advantages:
    """Return advantages, refused unless there is a finite one for every reward.

    Raises:
        PluginError: naming the estimator.
    """
    value, name = advantages.value, estimator.name
    if value.shape != rewards.value.shape:
        raise PluginError(
            f"advantage estimator {name!r} gave shape {tuple(value.shape)} for rewards of shape "
            f"{tuple(rewards.value.shape)}; expected the same"
        )
    if not bool((good := value.isfinite()).all()):
        raise PluginError(
            f"advantage estimator {name!r} gave {int((~good).sum())} advantage(s) that are not "
            f"finite, of finite rewards"
        )
    return advantages

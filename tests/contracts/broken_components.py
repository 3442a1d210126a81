"""Components that each break some rules; `test_suites_bite.py` runs the suites on them."""

import random
from copy import copy
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from pydantic import ConfigDict, Field, PrivateAttr, field_serializer

from diffrl.builtin.advantages import Returns
from diffrl.builtin.reward_predictors import Terminal
from diffrl.builtin.samplers import Ddim
from diffrl.builtin.update_schedulers import Pairs, RowsFirst
from diffrl.stages import AdvantageEstimator, Loss, Reward, RewardPredictor
from diffrl.streams import Streams
from diffrl.testing.contracts import (
    AdvantageEstimatorContract,
    LossContract,
    RewardContract,
    RewardPredictorContract,
    SamplerContract,
    UpdateSchedulerContract,
)
from diffrl.types import Advantages, LossOut, Memory, Minibatch, Prompts, Rewards, last_step


def broken(suite, *rules):
    """Make a test class out of a component class, and note which rules it breaks."""

    def add(component):
        @pytest.fixture
        def fixture(self):
            return component()

        body = {"component": fixture, "rules": {f"test_{rule}" for rule in rules}}
        globals()[f"Test{component.__name__}"] = type(f"Test{component.__name__}", (suite,), body)
        return component

    return add


@broken(
    LossContract,
    "name_is_in_kebab_case",
    "class_has_its_own_docstring",
    "every_field_is_described",
    "fields_cannot_be_changed",
    "unknown_fields_are_refused",
    "fields_are_all_there_is_to_it",
    "it_holds_no_other_state",
    "needs_and_gives_are_words_of_the_fit_check",
    "it_has_no_problem_with_itself",
)
class Untidy(Loss):
    model_config = ConfigDict(frozen=False, extra="ignore")
    name: ClassVar[str] = "Un_Tidy"
    needs: ClassVar[frozenset[str]] = frozenset({"log_probs"})
    scale: float = 1.0
    _calls: int = PrivateAttr(0)

    @field_serializer("scale")
    def _other(self, scale):
        return scale + 1

    def problems(self):
        return ["never happy"]


@broken(LossContract, "same_batch_same_loss")
class Moody(Loss):
    """Depends on the mood."""

    name: ClassVar[str] = "moody"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "log_prob"})

    def __call__(self, policy, batch):
        """Return a loss that differs from call to call."""
        return LossOut(policy.log_prob(batch).mean() + random.random())


@broken(
    LossContract,
    "value_is_one_finite_number",
    "metrics_are_finite_numbers_without_graph",
    "gradient_reaches_live_weights_only",
    "batch_and_weights_are_left_alone",
    "log_ratio_limit_is_positive",
    "one_small_step_keeps_the_gradient_finite",
)
class Careless(Loss):
    """Scales in place by the weights, trains the old ones, sums, and overflows."""

    name: ClassVar[str] = "careless"

    @property
    def log_ratio_limit(self):
        return -1.0

    def __call__(self, policy, batch):
        """Return something."""
        batch.advantage.add_(1)
        for p in policy.nets["old"].parameters():
            p.requires_grad_()
        frozen = sum(p.sum() for p in policy.nets["old"].parameters())
        xt, _ = policy.noise(batch.x0, batch.t)
        value = policy.predict(xt, batch.t, batch.cond).sum() + frozen
        return LossOut(value * torch.inf, {"value": value})


@broken(LossContract, "at_unchanged_weights_only_the_log_ratio_counts")
class Likelihood(Loss):
    """Maximises the log-density itself."""

    name: ClassVar[str] = "likelihood"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})

    def __call__(self, policy, batch):
        """Return minus the log-density."""
        return LossOut(-policy.log_prob(batch).mean())


@broken(LossContract, "loss_is_a_mean_over_steps")
class Discounted(Loss):
    """Adds up the steps of a row, and does not say so."""

    name: ClassVar[str] = "discounted"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})

    def __call__(self, policy, batch):
        """Return a loss of whole trajectories."""
        ratio = (policy.log_prob(batch) - batch.log_prob).exp()
        return LossOut((ratio * batch.advantage).sum(-1).mean())


@broken(LossContract, "one_tuple_is_enough")
class Whitened(Loss):
    """Divides by the deviation over tuples, of which one has none."""

    name: ClassVar[str] = "whitened"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})

    def __call__(self, policy, batch):
        """Return a loss that needs several tuples."""
        ratio = (policy.log_prob(batch) - batch.log_prob).exp()
        return LossOut((ratio * batch.advantage / batch.advantage.std(0)).mean())


@broken(LossContract, "order_within_a_tuple_does_not_matter", "loss_is_a_mean_over_tuples")
class OneSided(Loss):
    """Looks at the first row of each pair, and adds tuples up."""

    name: ClassVar[str] = "one-sided"
    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    arity: ClassVar[int] = 2

    def __call__(self, policy, batch):
        """Return the sum over first rows."""
        ratio = (policy.log_prob(batch) - batch.log_prob).exp()
        return LossOut((ratio * batch.advantage)[:, 0].sum())


@broken(SamplerContract, "a_prompt_gets_the_same_rows_in_any_batch")
class Gregarious(Ddim):
    """Draws for all prompts at once."""

    name: ClassVar[str] = "gregarious"
    steps: int = Field(default=3, description="Steps.")

    def __call__(self, policy, text, rng):
        common = torch.Generator().manual_seed(int(torch.randint(99, (), generator=rng)))
        return super().__call__(policy, text, common)


@broken(
    SamplerContract,
    "epochs_can_have_lengths_of_their_own",
    "every_prompt_gets_a_group_of_neighbours",
    "shapes_agree_with_rows_and_steps",
    "times_go_from_noisy_to_clean",
    "what_it_gives_is_there",
    "same_seed_same_rows",
    "it_keeps_no_graph",
    "policy_and_global_generator_are_left_alone",
    "path_ends_at_x0",
    "log_prob_is_the_same_at_training_time",
    "replay_returns_the_stored_x0",
    "chunks_can_be_joined",
)
class Sloppy(Ddim):
    """Draws globally, trains as it goes, and returns something else than it walked."""

    name: ClassVar[str] = "sloppy"

    @property
    def gives(self):
        return super().gives | {"labels"}

    def __call__(self, policy, text, rng):
        """Return a wrong rollout."""
        good = super().__call__(policy, text, rng)
        with torch.no_grad():
            policy.parameters()[0].add_(0.1)
        prompts = policy.prompts(text[:1], len(text) * self.group)
        x0 = (good.x0 + torch.randn(())).requires_grad_()
        return replace(good, x0=x0, times=good.times[1:].flip(0), prompts=prompts)


@broken(SamplerContract, "log_prob_is_the_same_at_training_time")
class Lagging(Ddim):
    """Draws from the old weights, and does not say so."""

    name: ClassVar[str] = "lagging"
    steps: int = Field(default=3, description="Steps.")

    def __call__(self, policy, text, rng):
        """Return rows of a policy whose old weights are live."""
        other = copy(policy)
        other.nets = {**policy.nets, "live": policy.nets["old"]}
        return super().__call__(other, text, rng)


@broken(
    SamplerContract,
    "a_prompt_that_comes_again_gets_pictures_of_its_own",
    "every_prompt_gets_a_group_of_neighbours",
)
class Literal(Ddim):
    """Numbers groups and draws noise by the text."""

    name: ClassVar[str] = "literal"
    steps: int = Field(default=3, description="Steps.")

    def __call__(self, policy, text, rng):
        """Return rows that are the same wherever the text is."""
        drawn = super().__call__(policy, text, Streams([len(one) for one in text]))
        number = torch.tensor([text.index(one) for one in drawn.prompts.text])
        return replace(drawn, prompts=replace(drawn.prompts, group=number))


@broken(
    SamplerContract,
    "a_group_of_two_lies_side_by_side",
    "shared_noise_is_the_same_within_a_group",
    "evaluations_draw_one_row_for_each_prompt",
)
class Interleaved(Ddim):
    """Goes through the prompts several times, each with noise of its own, and never for less."""

    name: ClassVar[str] = "interleaved"
    steps: int = Field(default=3, description="Steps.")

    def __call__(self, policy, text, rng):
        """Return rows of which those of a group are apart."""
        alone = Ddim(steps=self.steps, eta=max(self.eta, 0.1))
        return alone(policy, list(text) * self.group, rng)

    def for_evaluation(self, steps, eta):
        return self


@broken(SamplerContract, "what_it_gives_is_there")
class Silent(Ddim):
    """Keeps a path and says nothing of it."""

    name: ClassVar[str] = "silent"
    steps: int = Field(default=3, description="Steps.")

    @property
    def gives(self):
        return frozenset({"x0"})


@broken(
    RewardPredictorContract,
    "few_steps_are_enough",
    "last_alone_is_true_to_its_word",
    "asks_apart_is_true_to_its_word",
)
class Scattered(RewardPredictor):
    """Asks each row at a step of its own, of all but the first, and rewards every step alike."""

    name: ClassVar[str] = "scattered"
    last_alone: ClassVar[bool] = True

    def queries(self, steps):
        return 1

    def __call__(self, rollout, judge):
        """Return rewards of two steps or more."""
        steps = len(rollout.times)
        at = torch.arange(len(rollout)) % (steps - 1) + 1
        return Rewards(judge(rollout.x0, rollout.prompts, at)[:, None].expand(-1, steps).clone())


@broken(
    RewardPredictorContract,
    "queries_bounds_the_pictures_judged_per_row",
    "scores_of_each_reward_are_one_for_each_row",
)
class Late(Terminal):
    """Asks at a step behind the last, and has no scores of single rewards."""

    name: ClassVar[str] = "late"

    def __call__(self, rollout, judge):
        """Return right rewards."""
        behind = torch.full((len(rollout),), len(rollout.times))
        each = judge.each(rollout.x0, rollout.prompts, behind)
        return Rewards(last_step(each.sum(1), len(rollout.times)), each=each * torch.nan)


@broken(
    RewardPredictorContract,
    "every_row_gets_a_finite_reward_at_every_step",
    "same_rollout_same_rewards",
    "rollout_is_left_alone",
    "queries_bounds_the_pictures_judged_per_row",
    "gradient_is_there_if_it_is_given",
    "groups_do_not_influence_each_other",
)
class Greedy(Terminal):
    """Asks twice, whitens over the batch, and promises a gradient."""

    name: ClassVar[str] = "greedy"

    @property
    def gives(self):
        return frozenset({"grad"})

    def __call__(self, rollout, judge):
        """Return wrong rewards."""
        rollout.x0.add_(0.1)
        super().__call__(rollout, judge)
        value = super().__call__(rollout, judge).value
        return Rewards((value / (value.std(0) * value.shape[0])).requires_grad_())


@broken(
    AdvantageEstimatorContract,
    "every_step_of_every_row_gets_a_finite_advantage",
    "equal_rewards_give_finite_advantages",
    "memory_is_a_value",
    "order_of_rows_does_not_matter",
    "a_better_row_has_no_lower_advantage",
    "gradient_of_the_reward_travels_along",
    "steps_may_differ_between_epochs",
)
class Forgetful(Returns):
    """Writes into its memory, forgets gradients, reverses rows, and divides by zero."""

    name: ClassVar[str] = "forgetful"

    def __call__(self, rewards, prompts, memory):
        """Return wrong advantages."""
        count, steps = memory.history.get(("count", 0), torch.zeros(1, 1)), rewards.value.shape[1]
        if ("count", 0) in memory.history:
            count.add_(1)
            steps = 5
        value = rewards.value.flip(0) / rewards.value.std(0) * (1 if not count.any() else torch.inf)
        return Advantages(value.expand(-1, steps)), Memory({("count", 0): count})


@broken(
    AdvantageEstimatorContract,
    "a_better_row_has_no_lower_advantage",
    "looks_ahead_is_true_to_its_word",
)
class Indifferent(AdvantageEstimator):
    """Finds all rows alike."""

    name: ClassVar[str] = "indifferent"

    def __call__(self, rewards, prompts, memory):
        """Return advantages that teach nothing."""
        return Advantages(torch.zeros_like(rewards.value), rewards.grad), memory


@broken(AdvantageEstimatorContract, "a_better_row_has_no_lower_advantage")
class Conditioned(Returns):
    """Reads conditions that no run hands over."""

    name: ClassVar[str] = "conditioned"

    def __call__(self, rewards, prompts, memory):
        """Return advantages weighted by the length of the condition."""
        advantages, memory = super().__call__(rewards, prompts, memory)
        long = prompts.cond / prompts.cond.norm(dim=1, keepdim=True).mean()
        return replace(advantages, value=advantages.value * long[:, :1]), memory


class Tagged(torch.Tensor):
    """A tensor that no checkpoint may hold."""


@broken(AdvantageEstimatorContract, "memory_survives_a_checkpoint")
class Sticky(Returns):
    """Remembers what cannot be saved."""

    name: ClassVar[str] = "sticky"

    def __call__(self, rewards, prompts, memory):
        """Return right advantages and a wrong memory."""
        advantages, past = super().__call__(rewards, prompts, memory)
        return advantages, Memory({k: v.as_subclass(Tagged) for k, v in past.history.items()})


@broken(
    UpdateSchedulerContract,
    "indices_name_rows_and_steps_that_exist",
    "every_row_is_visited_equally_often",
    "no_gradient_is_left_over",
    "weights_within_an_optimizer_step_sum_to_one",
    "commits_once_is_true_to_its_word",
    "same_seed_same_order",
    "inputs_are_left_alone",
    "old_follows_at_a_decay_between_0_and_1",
)
class Hasty(RowsFirst):
    """Repeats a row, names one that does not exist, and never finishes."""

    name: ClassVar[str] = "hasty"

    @property
    def commits_once(self):
        return True

    def __call__(self, prompts, advantages, rng):
        """Yield wrong minibatches."""
        advantages.value.add_(torch.randn(()))
        yield from super().__call__(prompts, advantages, torch.Generator().manual_seed(rng.seed()))
        one = torch.zeros(1, 1, dtype=torch.long)
        yield Minibatch(one, one, weight=0.5)
        yield Minibatch(one + len(prompts), one, commit=False)

    def behind(self, epoch):
        return float(epoch)


@broken(UpdateSchedulerContract, "whole_trajectories_are_whole")
class Boastful(RowsFirst):
    """Says that it hands over whole trajectories, and hands over single steps."""

    name: ClassVar[str] = "boastful"

    @property
    def whole_trajectories(self):
        return True


@broken(LossContract, "larger_tuples_are_compared_as_a_whole")
class Narrow(Loss):
    """Says that it compares larger tuples, and looks at two rows of them."""

    name: ClassVar[str] = "narrow"
    needs: ClassVar[frozenset[str]] = frozenset({"path", "log_prob"})
    arity: ClassVar[int] = 2
    any_arity: ClassVar[bool] = True

    def __call__(self, policy, batch):
        """Return a loss of the first two rows."""
        gap = batch.advantage[:, 0] - batch.advantage[:, 1]
        ratio = policy.log_prob(batch)[:, :2] - batch.log_prob[:, :2]
        return LossOut((gap - (ratio[:, 0] - ratio[:, 1])).square().mean(), {})


@broken(UpdateSchedulerContract, "tuple_members_are_different_rows_of_one_group")
class Mixed(Pairs):
    """Pairs rows of different groups."""

    name: ClassVar[str] = "mixed"
    shuffle: bool = Field(True, description="Whether groups are mixed.")

    def __call__(self, prompts, advantages, rng):
        """Yield pairs of strangers."""
        mixed = Prompts(prompts.text, torch.zeros_like(prompts.group), prompts.cond)
        for minibatch in super().__call__(mixed, advantages, rng):
            yield replace(minibatch, rows=(minibatch.rows * 5) % len(prompts))


@broken(
    RewardContract,
    "every_picture_gets_a_finite_score",
    "same_pictures_same_scores",
    "pictures_do_not_influence_each_other",
    "gradient_reaches_the_picture_if_it_says_so",
    "scale_is_not_zero",
)
class Moving(Reward):
    """Loads a scorer that says other things of itself than its class, and does others."""

    name: ClassVar[str] = "moving"

    def load(self, device):
        """Return a scorer that brightens, compares and forgets."""

        def score(images, prompts):
            images += random.random()
            bright = images.mean((1, 2, 3)).detach()
            return torch.log(bright - bright.mean())

        score.scale, score.differentiable = 0, True
        return score


@broken(RewardContract, "pictures_do_not_influence_each_other")
class Relative(Reward):
    """Compares the pictures of a call, and does not say so, as its scores are small."""

    name: ClassVar[str] = "relative"

    def load(self, device):
        """Return a scorer that whitens."""

        def score(images, prompts):
            bright = images.mean((1, 2, 3))
            return 1e-4 * (bright - bright.mean()) / bright.std()

        return score

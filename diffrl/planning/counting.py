"""How often a recipe calls the networks: its own stages are run on a network of one weight.

The policy is the trainer's own, so guidance, old and base weights, replay and steps that are
evaluated twice count as they are. No algorithm is known here.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from diffrl.expected import (
    as_loss,
    as_rewards_are,
    minibatches,
    one_for_each_step,
    rows_side_by_side,
)
from diffrl.pipeline import ddim_schedule
from diffrl.planning.stand_ins import Calls, CountingJudge, OneWeight, Tally
from diffrl.policy import UNetPolicy
from diffrl.recipe import Recipe
from diffrl.rollouts import first_uses
from diffrl.settings import Settings
from diffrl.types import Advantages, Memory, Minibatch, Rewards, Rollout, gather


@dataclass(frozen=True)
class Epoch:
    """What one epoch of one process asks of the networks.

    Args:
        steps: of its trajectories.
        sampling: calls while sampling.
        decoding: how often latents are decoded and scored, by their number.
        graded: whether scores are asked for their gradient.
        updating: calls while updating, and while log-probs are recomputed before.
        open: the most rows whose graph waits for its backward pass at one time.
        commits: optimizer steps.
        accumulates: whether an optimizer step has several backward passes.
        held: bytes of the rollout, its rewards and advantages.
        predicted: bytes of those that are let go before updates: the predicted states.
        rows: trajectories.
    """

    steps: int
    sampling: Calls
    decoding: Counter[int]
    graded: bool
    updating: Calls
    open: int
    commits: int
    accumulates: bool
    held: int
    predicted: int
    rows: int


@dataclass(frozen=True)
class Shapes:
    """What stands for the pipeline while counting.

    Args:
        channels: of the latent.
        side: of the latent.
        tokens: of a prompt.
        width: of a token's condition.
        embedded: width of an embedded guidance scale.
        scheduler: configuration of the noise schedule.
    """

    channels: int
    side: int
    tokens: int
    width: int
    embedded: int | None
    scheduler: dict[str, Any]


class Counting:
    """Runs a recipe's stages for their calls.

    Args:
        settings: of the run.
        shapes: of its pipeline.
        prompts: to sample.
        processes: that share the epoch.
        device: its kind, on which the run computes.
        side: of the latents while counting; those of the run where a sampler insists on them.
    """

    def __init__(
        self,
        settings: Settings,
        shapes: Shapes,
        prompts: Sequence[str],
        processes: int = 1,
        device: str = "cpu",
        side: int = 1,
    ) -> None:
        self._settings, self._shapes, self._side = settings, shapes, side
        self._prompts, self._processes = prompts, processes
        self.tally = Tally()
        self._deduplicates = settings.deduplicates(device)
        net = OneWeight(shapes.channels, shapes.embedded, self.tally)
        self._policy = UNetPolicy(
            unet=net,
            call=net,
            encode=lambda text: torch.zeros(len(text), 1, 1),
            to_latent=lambda pictures: torch.zeros(len(pictures), shapes.channels, side, side),
            scheduler=ddim_schedule(scheduler(shapes.scheduler).config),
            size=side,
            guidance=settings.model.guidance,
            deduplicate=self._deduplicates,
        )

    def epochs(self) -> list[Epoch]:
        """Return one epoch for each of the lengths that epochs have in turn."""
        count = max(1, len(self._settings.recipe.sampler.lengths))
        known: dict[int, Epoch] = {}
        found = []
        for number in range(1, count + 1):
            steps = self._settings.recipe.sampler.for_epoch(number).steps
            if steps not in known:
                known[steps] = self._epoch(number)
            found.append(known[steps])
        return found

    def beginnings(self) -> int:
        """Return at how many times the numbers of steps of an evaluation begin."""
        recipe, chosen = self._settings.recipe, self._settings.eval
        first: set[float] = set()
        for steps in chosen.steps:
            drawing = recipe.sampler.for_evaluation(steps, chosen.eta)
            first.add(float(self._sample(recipe.but(sampler=drawing), 1).times[0]))
        self.tally.drain()
        return len(first)

    def _epoch(self, number: int) -> Epoch:
        recipe, train = self._settings.recipe, self._settings.train
        recipe = recipe.but(sampler=recipe.sampler.for_epoch(number))
        groups = -(-train.trajectories // recipe.sampler.group)
        own = -(-groups // self._processes)
        sampling, held, states = self._sampling(recipe, own)
        torch.manual_seed(0)
        rollout = self._sample(recipe, groups)
        self.tally.drain()
        judge = CountingJudge(train.decode_batch, len(self._settings.rewards))
        predicted = recipe.reward_predictor(rollout, judge)
        rewards = one_for_each_step(recipe.reward_predictor, predicted, rollout, drop=False)
        given = recipe.advantage_estimator(rewards, rollout.prompts, Memory())
        advantages, _ = as_rewards_are(recipe.advantage_estimator, given, rewards)
        decoding = self._decoding(recipe, own)
        commits, accumulates, calls, most = self._updating(recipe, rollout, advantages)
        return Epoch(
            steps=advantages.value.shape[1],
            sampling=sampling,
            decoding=decoding,
            graded=judge.graded,
            updating=calls,
            open=most,
            commits=commits,
            accumulates=accumulates,
            held=held + self._bytes(rewards, advantages, own, len(rollout)),
            predicted=states,
            rows=own * recipe.sampler.group,
        )

    def _sample(self, recipe: Recipe, groups: int) -> Rollout:
        text = [self._prompts[i % len(self._prompts)] for i in range(groups)]
        with torch.no_grad():
            rollout = recipe.sampler(self._policy, text, torch.Generator().manual_seed(0))
        rows_side_by_side(recipe.sampler, rollout, text, recipe.sampler.group)
        return rollout

    def _pieces(self, recipe: Recipe, groups: int) -> Counter[int]:
        """Return how many groups each sampling call has, as the trainer cuts them."""
        at_once = max(1, self._settings.train.sample_batch // recipe.sampler.group)
        return Counter(min(at_once, groups - i) for i in range(0, groups, at_once))

    def _sampling(self, recipe: Recipe, groups: int) -> tuple[Calls, int, int]:
        """Return the calls, and the bytes of what is sampled, in all and of predicted states."""
        calls: Calls = Counter()
        held = predicted = 0
        for size, times in self._pieces(recipe, groups).items():
            rollout = self._sample(recipe, size)
            for call, count in self.tally.drain().items():
                calls[call] += times * count
            held += times * self._rollout_bytes(rollout)
            if rollout.path is not None and rollout.path.x0_hat is not None:
                predicted += times * self._size(rollout.path.x0_hat)
        return calls, held, predicted

    def _decoding(self, recipe: Recipe, groups: int) -> Counter[int]:
        decoded: Counter[int] = Counter()
        for size, times in self._pieces(recipe, groups).items():
            rollout = self._sample(recipe, size)
            judge = CountingJudge(self._settings.train.decode_batch, len(self._settings.rewards))
            recipe.reward_predictor(rollout, judge)
            for rows, count in judge.decoded.items():
                decoded[rows] += times * count
        self.tally.drain()
        return decoded

    def _updating(
        self, recipe: Recipe, rollout: Rollout, advantages: Advantages
    ) -> tuple[int, bool, Calls, int]:
        """Return optimizer steps, whether they accumulate, calls, and rows of open graphs."""
        kinds: Counter[tuple[int, ...]] = Counter()
        first: dict[tuple[int, ...], Minibatch] = {}
        commits = backwards = 0
        rng = torch.Generator().manual_seed(0)
        for whole in minibatches(recipe.update_scheduler, rollout.prompts, advantages, rng):
            commits += whole.commit
            for piece in self._cut(whole):
                kind = self._kind(rollout, piece)
                kinds[kind] += 1
                backwards += 1
                first.setdefault(kind, piece)
        calls: Calls = Counter()
        self.tally.most = 0
        for kind, times in kinds.items():
            self.tally.open = 0
            given = recipe.loss(self._policy, gather(rollout, advantages, first[kind]))
            as_loss(recipe.loss, given).value.backward()
            for call, count in self.tally.drain().items():
                calls[call] += times * count
        if self._settings.recomputes:
            calls += self._recomputing(recipe, rollout, advantages)
        return commits, backwards > commits, calls, self.tally.most

    def _kind(self, rollout: Rollout, piece: Minibatch) -> tuple[int, ...]:
        """Return what pieces have in common that call the network alike."""
        shape = (len(piece.rows), piece.rows.shape[1], piece.steps.shape[1])
        if not self._deduplicates or rollout.path is None:
            return shape
        x = rollout.path.x[piece.rows[:, :, None], piece.steps[:, None, :]].flatten(0, 1)
        differ = (x[1:] != x[:-1]).flatten(2).any(2)
        return (*shape, *differ.sum(0).tolist())

    def _recomputing(self, recipe: Recipe, rollout: Rollout, advantages: Advantages) -> Calls:
        """Return the calls in which log-probs are recomputed, each once."""
        rng = torch.Generator().manual_seed(0)
        every = minibatches(recipe.update_scheduler, rollout.prompts, advantages, rng)
        for whole, _ in first_uses(every, *advantages.value.shape):
            for piece in self._cut(whole):
                with torch.no_grad():
                    self._policy.log_prob(gather(rollout, advantages, piece))
        return self.tally.drain()

    def _cut(self, whole: Minibatch) -> Iterator[Minibatch]:
        """Yield the pieces of one process's share of a minibatch of all processes."""
        share = -(-len(whole.rows) // self._processes)
        micro = self._settings.train.micro_batch
        for start in range(0, share, micro):
            at = slice(start, min(start + micro, share))
            yield dataclasses.replace(whole, rows=whole.rows[at], steps=whole.steps[at])

    def _rollout_bytes(self, rollout: Rollout) -> int:
        """Return the bytes of a rollout at the run's own sizes."""
        cond = len(rollout) * self._shapes.tokens * self._shapes.width * 4
        path = rollout.path
        values = [] if path is None else [getattr(path, f.name) for f in dataclasses.fields(path)]
        tensors = [v for v in (rollout.x0, *values) if isinstance(v, torch.Tensor)]
        return cond + sum(map(self._size, tensors))

    def _size(self, tensor: torch.Tensor) -> int:
        """Return the bytes of a tensor of a rollout; latents count at the run's own size."""
        grown = (self._shapes.side / self._side) ** 2 if tensor.ndim > 3 else 1
        return math.ceil(tensor.numel() * tensor.element_size() * grown)

    def _bytes(self, rewards: Rewards, advantages: Advantages, own: int, rows: int) -> int:
        tensors = [rewards.value, advantages.value]
        each = sum(t.numel() * t.element_size() for t in tensors)
        grad = 0 if rewards.grad is None else 2 * rewards.grad.numel() * 4
        grown = (self._shapes.side / self._side) ** 2
        share = own * self._settings.recipe.sampler.group / rows
        return math.ceil((each + grad * grown) * share)


def scheduler(config: dict[str, Any]) -> Any:
    """Return a diffusers scheduler of a configuration."""
    import diffusers

    made = getattr(diffusers, str(config.get("_class_name", "DDIMScheduler")))
    return made.from_config(config)

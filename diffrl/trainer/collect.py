"""The first half of an epoch: sampling, and scoring what was sampled, one beside the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from diffrl.errors import (
    DiffrlError,
    Interrupted,
    OutOfMemory,
    PluginError,
    ProcessLost,
    RewardError,
    UnreadableData,
)
from diffrl.expected import one_for_each_step
from diffrl.judge import WeightedJudge
from diffrl.policy import UNetPolicy
from diffrl.recipe import Recipe
from diffrl.rollouts import concat, concat_rewards, only, rows_of, take
from diffrl.speed.fitting import Pieces, in_words
from diffrl.speed.memory import moved
from diffrl.trainer.fitted import sampled
from diffrl.trainer.ranks import Ranks
from diffrl.trainer.shares import Share
from diffrl.types import Rewards, Rollout

SAVED = (RewardError, PluginError, Interrupted, OutOfMemory, UnreadableData)
"""What ends a run that saves first."""

Observe = Callable[[int, Rollout, Rewards], None]
Mode = Callable[[], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Batches:
    """How an epoch is cut into pieces, and who watches it.

    Args:
        pieces: their sizes, in sampling and in updates.
        observe: is told of the rollout and its rewards.
        overlap: whether pieces are scored while the next one is sampled.
        drop: whether groups without finite scores are left out.
        stop: is called after every optimizer step, and raises if the run is to end there.
        keep: the device that rollouts are kept on, where it is not the policy's.
        recompute: the mode of autograd in which log-probs are computed anew before updates, if any.
    """

    pieces: Pieces
    observe: Observe = lambda *_: None
    overlap: bool = False
    drop: bool = False
    stop: Callable[[], None] = lambda: None
    keep: str | None = None
    recompute: Mode | None = None


class Clock:
    """Seconds spent under each name; a lap ends what the last one began."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under a name."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


@dataclass
class Scoring:
    """Scores rollouts as they come, in a thread of its own where that helps.

    One thread, so that the judge's books are in order and results do not depend on timing.
    """

    recipe: Recipe
    judge: WeightedJudge
    overlap: bool
    drop: bool = False
    rewards: list[Future[Rewards]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._pool = None
        if self.overlap and torch.cuda.is_available():
            here = torch.cuda.current_device()  # a thread begins on the first GPU, not on ours
            self._pool = ThreadPoolExecutor(1, "scoring", torch.cuda.set_device, (here,))
        elif self.overlap:
            self._pool = ThreadPoolExecutor(1, "scoring")

    def add(self, rollout: Rollout) -> None:
        """Score a rollout, now or beside what comes next; raise what failed before."""
        for earlier in self.rewards:
            if earlier.done():
                earlier.result()
        if self._pool is not None:
            self.rewards.append(self._pool.submit(self._score, rollout))
            return
        done: Future[Rewards] = Future()
        done.set_result(self._score(rollout))
        self.rewards.append(done)

    def finish(self) -> list[Rewards]:
        """Wait for what is left, and return everything in order."""
        return [future.result() for future in self.rewards]

    def stop(self) -> None:
        """Give up what has not begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _score(self, rollout: Rollout) -> Rewards:
        predictor = self.recipe.reward_predictor
        return one_for_each_step(predictor, predictor(rollout, self.judge), rollout, self.drop)


@dataclass(frozen=True)
class Collected:
    """An epoch's trajectories.

    Args:
        share: the epoch's groups, and who has them.
        rollout: the rows of this process.
        rewards: theirs.
        everyone: the rewards of all rows, in the order of the groups.
        dropped: rows that were left out, in all processes.
    """

    share: Share
    rollout: Rollout
    rewards: Rewards
    everyone: Rewards
    dropped: int = 0


def collect(
    recipe: Recipe,
    policy: UNetPolicy,
    judge: WeightedJudge,
    ranks: Ranks,
    share: Share,
    batches: Batches,
    clock: Clock,
) -> Collected:
    """Sample and score this process's groups, piece by piece, and exchange the rewards.

    Raises:
        RewardError: in every process, if a reward failed in one of them, or one has nothing left
            and weights are split.
        Interrupted: in every process, if one was asked to stop.
    """
    scoring = Scoring(recipe, judge, batches.overlap, batches.drop)
    rollouts = []
    groups = share.filled if ranks.in_step else share.own
    text, rng = [share.text[g] for g in groups], share.streams(groups)
    drawn = sampled(recipe.sampler, policy, text, rng, batches.pieces.sample, batches.keep)
    drawn = first_rows(drawn, len(share.own) * share.rows)
    try:
        more = True
        while any(ranks.everyones([more])):  # processes may have different numbers of pieces
            with refusing(ranks), in_words("memory ends in sampling, or in scoring beside it"):
                rollout = next(drawn, None)
                clock.lap("sample")
                more = rollout is not None
                if rollout is not None and len(rollout):
                    rollouts.append(rollout)
                    scoring.add(rollout)
                clock.lap("score")
        with refusing(ranks), in_words("memory ends in what an epoch has sampled"):
            rewards = scoring.finish()
            rollout, own = concat(rollouts), moved(concat_rewards(rewards), policy.device)
    finally:
        scoring.stop()
        clock.lap("score")
    found = Collected(share, rollout, own, ranks.together(own, share))
    found = without_bad(found, judge.why) if batches.drop else found
    if ranks.in_step and not all(found.share.owned):
        raise RewardError(
            "no trajectory of one of the processes got a finite score; with speed.shard each needs "
            "some"
        )
    return found


@contextlib.contextmanager
def refusing(ranks: Ranks) -> Iterator[None]:
    """Raise in every process what failed in one, so that none waits for the others for ever.

    Raises:
        RewardError, PluginError: in the processes where nothing failed, with the first message of
            the others; of what ends a run so that it can be saved.
        Interrupted: in every process, if one was asked to stop.
        ProcessLost: where something else failed in another process, or, with split weights, in this
            one.
    """
    failed: Exception | None = None
    try:
        yield
    except Exception as error:
        if ranks.in_step and not isinstance(error, RewardError | Interrupted):  # others wait
            raise ranks.lost(error) from error
        failed = error
    told = ranks.everyones([(ranks.asked(), _how(failed, ranks.number))])
    if number := max(asked for asked, _ in told):
        raise Interrupted(number)
    if isinstance(failed, PluginError):
        failed.everywhere = True
    heard = [how for _, how in told if how is not None]
    gone = [how for how in heard if how[0] == "lost"]
    if failed is not None and (not gone or not isinstance(failed, SAVED)):
        raise failed
    if heard:
        raise _heard(*(gone or heard)[0]) from failed


def _how(failed: Exception | None, rank: int) -> tuple[str, str] | None:
    """Return the kind of a failure, as other processes raise it, and its message."""
    if failed is None:
        return None
    if isinstance(failed, RewardError | PluginError):
        return ("plugin" if isinstance(failed, PluginError) else "saved"), str(failed)
    cause = f"{type(failed).__name__}: {failed}"
    return ("saved", cause) if isinstance(failed, SAVED) else ("lost", f"process {rank}: {cause}")


def _heard(kind: str, message: str) -> DiffrlError:
    """Return what a process raises where another one failed."""
    if kind == "plugin":
        error = PluginError(message)
        error.everywhere = True
        return error
    return RewardError(message) if kind == "saved" else ProcessLost(message)


def first_rows(drawn: Iterable[Rollout], count: int) -> Iterator[Rollout]:
    """Yield rollouts with their first `count` rows in all; what comes then has none."""
    for rollout in drawn:
        left = min(count, len(rollout))
        yield rollout if left == len(rollout) else rows_of(rollout, torch.arange(left))
        count -= left


def without_bad(found: Collected, why: str = "") -> Collected:
    """Return the groups that were scored as a whole; the others are left out in all processes.

    Args:
        found: all of them.
        why: one had no score, if that is known.

    Raises:
        RewardError: if none is left.
    """
    share, everyone = found.share, found.everyone
    good = everyone.value.isfinite().flatten(1).all(1).view(-1, share.rows).all(1).cpu()
    if bool(good.all()):
        return found
    if not bool(good.any()):
        cause = f"; the last failure: {why}" if why else ""
        raise RewardError(f"no trajectory of this epoch got a finite score{cause}")
    kept = good.repeat_interleave(share.rows)
    return Collected(
        share.without((~good).nonzero()[:, 0].tolist()),
        *take(found.rollout, found.rewards, kept[share.own_rows].nonzero()[:, 0]),
        only(everyone, kept.nonzero()[:, 0]),
        int((~kept).sum()),
    )

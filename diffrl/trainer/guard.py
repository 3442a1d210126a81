"""What a run does when its watchdog sees something: warn, slow down, go back, or stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from diffrl import shelf
from diffrl.errors import Diverged, quoted
from diffrl.events import Noticed
from diffrl.trainer import checkpoint
from diffrl.trainer.anew import begin_anew
from diffrl.trainer.evaluate import Evaluation
from diffrl.trainer.saving import notice, save, stopped
from diffrl.trainer.session import Session
from diffrl.trainer.watchdog import GOOD, ROLLBACKS, SLOW, Sighting, Watchdog, hardest

BROKEN = "watchdog/broken"


def watch(
    session: Session, done: Evaluation | None, evaluated: bool, metrics: Mapping[str, float]
) -> list[Sighting]:
    """Return what an epoch's watchdog sees, in every process; it remembers in `session.watch`.

    Args:
        session: of the run.
        done: the evaluation, in the first process.
        evaluated: whether there was one.
        metrics: of the epoch.
    """
    if session.settings.watchdog.action == "off" and not evaluated:
        return []  # what pictures were at first is remembered, for when it is switched on
    dog = Watchdog(session.settings.watchdog, dict(session.watch))
    steps = session.settings.recipe.sampler.for_epoch(session.epoch).steps
    found = dog.on_gradient(metrics.get("grad_norm"), steps)
    if done is not None:
        held_out = session.watched[len(session.rewards) :]
        found += dog.on_evaluation(done, held_out, kl_of(done.scores))
    found, memory = session.ranks.everyones([(found, dog.memory)])[0]
    session.watch = memory
    if evaluated and session.epoch and session.settings.watchdog.goes_back:
        if not found and Watchdog(session.settings.watchdog, memory).unharmed:
            session.watch[GOOD] = float(session.epoch)
    return found


def figures(session: Session, found: Sequence[Sighting]) -> dict[str, float]:
    """Return the metrics that say what the watchdog saw and has done, if it ever did."""
    done = {f"watchdog/{name}": session.watch[name] for name in (SLOW, ROLLBACKS)
            if name in session.watch}  # fmt: skip
    return {**done, BROKEN: float(len(found))} if done or found else {}


def act(session: Session, found: Sequence[Sighting]) -> bool:
    """Do what the hardest of the broken rules asks for; return whether the run went back.

    Raises:
        Diverged: if the run is to stop; it is back at its last good checkpoint, if it has one.
    """
    action = wanted = hardest(found)
    if not action:
        return False
    settings, good = session.settings.watchdog, int(session.watch.get(GOOD, 0))
    if good and shelf.damage(shelf.place(session.folder, good)) is not None:
        good = 0  # somebody has deleted it, or it is damaged
    (good,) = session.ranks.everyones([good])[:1]  # others may look while it goes
    again = session.watch.get(ROLLBACKS, 0.0) < settings.rollbacks
    if action == "rollback" and not (good and again):
        action = "stop"
    back = good if good and action in ("rollback", "stop") else None
    way = {"rollback": "to", "stop": "at"}
    told = action if back is None else f"{action} {way[action]} epoch {back}"
    deciding = [one for one in found if one.action == wanted]
    notice(
        session,
        [_told(session.epoch, one, told if one in deciding else one.action, back) for one in found],
    )
    if action in ("slow", "rollback"):
        session.watch[SLOW] = session.watch.get(SLOW, 1.0) * settings.slow_by
    if back is not None:
        go_back(session, back, again=action == "rollback")
    if action == "stop":
        raise stopped(session, _stopping(deciding, settings.rules, back))
    return back is not None


def _told(epoch: int, one: Sighting, action: str, back: int | None) -> Noticed:
    figures = (one.measured, one.limit)
    return Noticed(epoch, "watchdog", one.rule, one.message, action, *figures, back_to=back)


def _stopping(deciding: Sequence[Sighting], rules: Sequence[str], back: int | None) -> Diverged:
    where = (
        "no evaluation before was good, so there is nothing to go back to"
        if back is None
        else f"the run is back at epoch {back}, its last good one"
    )
    names = dict.fromkeys(one.rule for one in deciding)
    own = [rule for rule in rules if rule.partition("=")[0] in names]
    softer = [f"{rule.partition('=')[0]}=warn" for rule in own]
    given = [rule for rule in rules if rule not in own] + softer
    sets = [f"watchdog.rules={json.dumps(given)}"] if own else []
    if len(own) < len(names):  # the others have the action of all
        sets.append("watchdog.action=warn")
    add = " ".join(f"--set {quoted(one)}" for one in sets)
    told = "; ".join(one.message for one in deciding)
    return Diverged(
        f"the watchdog stopped the run: {told}; {where}; to go on all the same, add {add}"
    )


def go_back(session: Session, epoch: int, again: bool) -> None:
    """Take up an earlier checkpoint; what was sampled since counts, and what was done is kept."""
    ranks, spent = session.ranks, dict(session.progress)
    done = {name: session.watch[name] for name in (SLOW, GOOD) if name in session.watch}
    rollbacks = session.watch.get(ROLLBACKS, 0.0) + float(again)
    path = shelf.place(session.folder, epoch)
    session.go_on(checkpoint.load(path, session.policy, ranks, session.rng))
    begin_anew(session, path)  # a run that was changed since has said so
    session.progress, session.pending = spent, {}
    session.watch.update({**done, ROLLBACKS: rollbacks})
    ranks.wait()  # everyone has read it
    if ranks.is_main:
        shelf.set_aside(session.folder, epoch)
    save(session)
    ranks.wait()  # the first to leave ends the others


def kl_of(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the KL to the base model by number of steps."""
    return {k: v for k, v in scores.items() if k.startswith("kl/")}

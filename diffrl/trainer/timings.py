"""What a run tells of its speed and of its memory."""

from __future__ import annotations

import time
from collections.abc import Mapping

from diffrl import moments
from diffrl.events import Noticed
from diffrl.trainer.session import Session


def first_seconds(
    session: Session, line: Mapping[str, float], compiling: float
) -> dict[str, float]:
    """Return what a line of metrics says of the time before, and of the time spent compiling."""
    compiling += line.get("seconds/compile", 0.0)
    found = {"seconds/compile": compiling} if compiling else {}
    if session.starting is not None:
        found["seconds/start"], session.starting = session.starting, None
    return found


def begin_work(session: Session) -> None:
    """Note, for the line before training, how long it took to come to the first sample."""
    began, moments.BEGAN = moments.BEGAN, None
    if began is not None and session.epoch == 0:
        session.starting = time.perf_counter() - began


def smaller_pieces(session: Session) -> list[Noticed]:
    """Return a notice for each size of pieces that did not fit into memory, once a run."""
    return [
        Noticed(
            session.epoch,
            "check",
            f"memory:{one.setting}",
            f"memory ended; from now on {one.setting} is {one.size}, with the same result",
            "warn",
            float(one.size),
            0.0,
        )
        for one in session.pieces.each
        if one.cuts
    ]

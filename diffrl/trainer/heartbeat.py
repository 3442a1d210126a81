"""Notices processes that have fallen silent: a machine that loses power closes no connection."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed

from diffrl.trainer.exchange import Exchange

BEAT, SILENCE = 5.0, 45.0
"""Seconds between signs of life, and after which a process counts as lost without one."""

TICK = 1.0
"""Seconds between looks at the clock."""

LAST = 3.0
"""Seconds that a sign of life may still take when all is over. Where the first process's machine is
gone it takes for ever, which does no harm to what ends meanwhile."""

FIRST = timedelta(seconds=30)
"""How long a connection may take to be made, or to answer."""


class Heartbeat:
    """Tells the other processes every few seconds that this one lives, and listens for them.

    Who waits in an exchange for a process that is gone cannot be woken, so `lost` should end this
    process. A process that was stopped itself, with the others or alone, begins to count anew.

    Args:
        exchange: of the run's processes; alone there is nothing to do.
        lost: is called once, in a thread of its own, with what is wrong.
        silence: seconds without a sign of life.
        beat: seconds between two.
    """

    def __init__(
        self,
        exchange: Exchange,
        lost: Callable[[str], None],
        silence: float = SILENCE,
        beat: float = BEAT,
    ) -> None:
        self._exchange, self._lost = exchange, lost
        self._silence, self._beat = silence, beat
        self._ended = threading.Event()
        self._talking = threading.Thread(target=self._talk, name="heartbeat", daemon=True)
        self._store: Any = None
        self._others = [rank for rank in range(exchange.count) if rank != exchange.rank]
        self._said: dict[int, bytes] = {}
        self._heard: dict[int, float] = {}
        self._answered = 0.0

    def __enter__(self) -> Heartbeat:
        if self._others and (store := connected(self._exchange)) is not None:
            self.begin(store)
        return self

    @property
    def deaf(self) -> bool:
        """Whether there are others, and no way to hear of them."""
        return bool(self._others) and self._store is None

    def __exit__(self, *how: object) -> None:
        """End, but not in the middle of a sign of life: Python aborts if its answer comes then."""
        self._ended.set()
        if self._talking.is_alive():
            self._talking.join(LAST)

    def begin(self, store: Any) -> None:
        """Begin to tell and to listen, through a store of keys and values that all can reach."""
        self._store = store
        self._forgive()
        self._talking.start()
        threading.Thread(target=self._watch, name="heartbeat watch", daemon=True).start()

    def _forgive(self) -> None:
        now = time.monotonic()
        self._heard, self._answered = dict.fromkeys(self._others, now), now

    def _talk(self) -> None:
        """Say that this process lives, and hear of the others; an answer may never come."""
        beats = 0
        while not self._ended.is_set():
            beats += 1
            with contextlib.suppress(RuntimeError):
                self._store.set(str(self._exchange.rank), str(beats))
                self._listen()
            self._ended.wait(self._beat)

    def _listen(self) -> None:
        """Hear of all others at once; before they have said anything, ask one by one whether."""
        new = [one for one in self._others if one not in self._said]
        known = [one for one in self._others if one not in new]
        known += [one for one in new if self._store.check([str(one)])]
        said = self._store.multi_get([str(one) for one in known]) if known else []
        self._answered = time.monotonic()
        for one, words in zip(known, said, strict=True):
            if words != self._said.get(one):
                self._said[one], self._heard[one] = words, self._answered

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(TICK):
            now = time.monotonic()
            if now - before > 5 * TICK:  # this process was stopped, perhaps all were
                self._forgive()
            before = now
            if said := self._silent(now):
                self._ended.set()
                self._lost(said)

    def _silent(self, now: float) -> str:
        """Return what is wrong, if something is."""
        if now - self._answered > self._silence:  # the first process keeps what all say
            silent = [0]
        else:
            until = self._answered  # what was heard tells nothing of later
            silent = [rank for rank, at in self._heard.items() if until - at > self._silence]
        if not silent:
            return ""
        named = ", ".join(map(str, silent))
        return (
            f"process {named} of {self._exchange.count} has not been heard of for "
            f"{self._silence:.0f} seconds"
        )


def connected(exchange: Exchange) -> Any | None:
    """Return a store that the first process keeps; None, in all processes, if one cannot reach it.

    It is another one than torch's own, whose connection is taken while an exchange waits.
    """
    host, store, port = os.environ.get("MASTER_ADDR", "localhost"), None, 0

    def opened(at: int, keeps: bool) -> Any | None:
        with contextlib.suppress(RuntimeError, OSError):
            return distributed.TCPStore(
                host, at, is_master=keeps, wait_for_workers=False, timeout=FIRST
            )
        return None

    if exchange.rank == 0 and (store := opened(0, keeps=True)) is not None:
        port = store.port
    (port,) = exchange.objects([port])[:1]
    if exchange.rank and port:
        store = opened(port, keeps=False)
    return store if all(exchange.objects([store is not None])) else None

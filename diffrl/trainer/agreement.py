"""What processes do one for all, or each for itself, and know of each other before they go on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import distributed

from diffrl.errors import DiffrlError
from diffrl.trainer.exchange import hearing

if TYPE_CHECKING:
    from accelerate import Accelerator

Found = TypeVar("Found")


def are_many() -> bool:
    """Return whether a launcher has started this process with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def by_the_first(made: Accelerator, act: Callable[[], str]) -> str:
    """Return what the main process's `act` returns, in every process.

    Raises:
        DiffrlError: in every process, what it raises in that one; also for errors of the system.
    """
    from accelerate.utils import broadcast_object_list

    told, failed = "", None
    if made.is_main_process:
        try:
            told = act()
        except (DiffrlError, OSError) as error:
            failed = error
    if made.num_processes > 1:
        with hearing():
            told, why = broadcast_object_list([told, None if failed is None else str(failed)])
        if failed is None and why is not None:
            raise DiffrlError(why)
    if failed is not None:
        raise failed
    return told


def by_all(made: Accelerator, act: Callable[[], Found]) -> Found:
    """Return what `act` returns in this process, once it has ended well in all.

    A process that ends alone leaves those of other machines waiting in their next exchange: the
    launcher of each watches its own processes only. `act` must exchange nothing itself.

    Raises:
        DiffrlError: where it has ended well here, what went wrong in the first process where not.
    """
    if made.num_processes == 1:
        return act()
    try:
        found = act()
    except Exception as error:
        with contextlib.suppress(DiffrlError, RuntimeError):  # of others that are gone
            _tell(made, str(error) or type(error).__name__)
        raise
    told = _tell(made, "")
    if wrong := [(rank, said) for rank, said in enumerate(told) if said]:
        rank, said = wrong[0]
        raise DiffrlError(f"process {rank} of {made.num_processes}: {said}")
    return found


def _tell(made: Accelerator, said: str) -> list[str]:
    """Return what every process has to say."""
    told = [""] * made.num_processes
    with hearing():
        distributed.all_gather_object(told, said)
    return told

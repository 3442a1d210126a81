"""Trains in processes that need not load their libraries: they are copies of one that has.

A quick run is over in half a minute, an eighth of which would go into loading libraries.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

LOADED = (
    "diffrl.trainer",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.schedulers.scheduling_ddim",
    "peft",
    "tensorboard",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
"""What every run loads, but for what is small."""


class Warm:
    """A process that trains, used like one of `subprocess`.

    Args:
        algo: that trains.
        reward: that it trains on.
        sets: `KEY=VALUE` settings of a new run.
        folder: of the run; one that is there goes on.
        log: file that its output is added to; its folder is made.
        threads: that it computes with.
    """

    def __init__(
        self, algo: str, reward: str, sets: Sequence[str], folder: Path, log: Path, threads: int
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        methods = get_all_start_methods()
        context: Any = get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload(list(LOADED))
        given = (algo, reward, list(sets), folder, log, threads)
        self._process = context.Process(target=trained, args=given)
        self.began = time.monotonic()
        self._process.start()

    def poll(self) -> int | None:
        """Return how it ended, or None while it works."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """How it ended."""
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask it to save and to stop."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join()


def trained(
    algo: str, reward: str, sets: Sequence[str], folder: Path, log: Path, threads: int
) -> None:
    """Train in this process, which is in a session of its own, with output into a log."""
    if hasattr(os, "setsid"):
        os.setsid()  # a second signal, the terminal's, would not let it save
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for output in (1, 2):
        os.dup2(file, output)
    import torch

    import diffrl
    from diffrl.errors import DiffrlError
    from diffrl.folder import SETTINGS

    torch.set_num_threads(threads)
    try:
        if (folder / SETTINGS).exists():
            diffrl.resume(folder)
        else:
            diffrl.train(algo, reward, sets=sets, output=folder)
    except DiffrlError as error:
        print(f"error: {error}", flush=True)
        raise SystemExit(error.exit_code) from None

"""What `diffrl serve-reward` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from diffrl.checksums import MARK
from diffrl.errors import RewardError, SettingsError
from diffrl.paths import there
from diffrl.settings.rewards import chosen


def serve(
    spec: str,
    preset: str,
    sets: Sequence[str],
    device: str,
    host: str,
    port: int,
    batch: int,
    max_megabytes: int,
) -> None:
    """Load a reward with a preset's settings, and serve it until interrupted.

    Raises:
        DiffrlError: if it cannot be had.
        SettingsError: if others could reach it without a token.
    """
    reward = chosen(spec, preset, sets)
    if found := reward.problems():
        raise SettingsError(found)
    from diffrl.scoring import ScoredBy
    from diffrl.serve.client import TOKEN
    from diffrl.serve.server import Service, is_loopback, run
    from diffrl.speed.fitting import in_words
    from diffrl.trainer.ranks import check_device, device_here

    token = os.environ.get(TOKEN, "")
    if not token and not is_loopback(host):
        raise SettingsError(
            [f"--host {host}: other machines could connect; set {TOKEN} to a secret first"]
        )
    if found := check_device(device, "fp32"):
        raise SettingsError([line.replace("model.device =", "--device") for line in found])
    device = device_here(device)
    try:
        with in_words(f"reward {reward.name!r}: memory ends in loading it", "--device cpu"):
            loaded = ScoredBy.load(reward, device, 1.0)
    except RewardError as error:
        raise SettingsError([str(error)]) from error
    about = {
        "name": loaded.name,
        "scale": loaded.scale,
        "higher_is_better": loaded.higher_is_better,
        "likes_noise": loaded.likes_noise,
        "groupwise": loaded.groupwise,
        "licence": reward.licence,
        "checkpoint": without_folder(str(getattr(reward, "checkpoint", None) or "")),
    }
    service = Service(
        score=lambda images, text: loaded.score(images.to(device), text),
        about=about,
        token=token,
        max_bytes=max_megabytes * 2**20,
        batch=batch,
        groupwise=loaded.groupwise,
    )
    try:
        run(service, host, port)
    except ValueError as error:
        raise SettingsError([f"--host {host} --port {port}: {error}"]) from None


def without_folder(ref: str) -> str:
    """Return a checkpoint's reference as clients may see it: of a local path, its name alone."""
    path = Path(ref.partition(MARK)[0])
    return path.name if there(path) or path.is_absolute() or ref[:1] == "~" else ref

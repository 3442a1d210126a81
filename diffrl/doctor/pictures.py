"""Pictures that a person hands over, with their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffrl.errors import SettingsError
from diffrl.preferences import FORMATS
from diffrl.settings import Settings
from diffrl.tensors import Float, Tensor

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Pictures:
    """Pictures in [0, 1] of any size, and a prompt for each."""

    images: tuple[Float[Tensor, "3 _ _"], ...]
    text: tuple[str, ...]


def read_pictures(folder: Path) -> Pictures:
    """Return the pictures of a folder.

    A picture's prompt is in the `.txt` file of its name, or is the name itself, with spaces for
    - and _.

    Raises:
        SettingsError: if there is none, or one cannot be read.
    """
    from PIL.Image import DecompressionBombError

    if not folder.is_dir():
        raise SettingsError([f"--pictures {folder}: no such folder"])
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in ENDINGS)
    if not files:
        raise SettingsError(
            [f"--pictures {folder}: no picture there; expected files in {', '.join(ENDINGS)}"]
        )
    images, text, problems = [], [], []
    for file in files:
        try:
            images.append(_read(file))
            text.append(_prompt(file))
        except UnicodeDecodeError:
            problems.append(f"--pictures {file.with_suffix('.txt')}: not a text file in UTF-8")
        except (OSError, DecompressionBombError) as error:
            problems.append(f"--pictures {file}: {' '.join(str(error).split())}")
    if problems:
        raise SettingsError(problems)
    return Pictures(tuple(images), tuple(text))


def refuse_unfit(settings: Settings, text: Sequence[str]) -> None:
    """Refuse prompts that a trained reward cannot score.

    Raises:
        SettingsError: naming the rewards and why.
    """
    unfit = [(w.reward.name, w.reward.unfit(text)) for w in settings.rewards]
    if problems := [
        f"--pictures: reward {name!r} cannot score: {why}" for name, why in unfit if why
    ]:
        raise SettingsError(problems)


def _prompt(file: Path) -> str:
    beside = file.with_suffix(".txt")
    if beside.is_file():
        return " ".join(beside.read_text("utf-8").split())
    return " ".join(file.stem.replace("-", " ").replace("_", " ").split())


def _read(file: Path) -> Float[Tensor, "3 h w"]:
    import numpy
    import torch
    from PIL import Image

    with Image.open(file, formats=FORMATS) as opened:
        pixels = numpy.asarray(opened.convert("RGB"), dtype=numpy.float32)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255

"""The packages image-reward and hpsv2 themselves, as functions to serve.

They contradict the trainer's requirements, so each is served from an environment of its own, for
which `environments/*.txt` hold tried requirements and `docs/rewards/serving.md` the commands:

    python -m diffrl.serve diffrl.serve.packages:image_reward

Networks, preprocessing and tokenizers are the packages' own; nothing here needs the rest of diffrl.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
import types
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffrl.checksums import check, split
from diffrl.errors import CheckpointRefused, RewardError

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED = {
    "image-reward": ("THUDM/ImageReward", "5736be03b2652728fb87788c9797b0570450ab72"),
    "hpsv2": ("xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a"),
}
"""Repository and commit of each package's weights."""

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def image_reward(images: Tensor, prompts: Sequence[str]) -> list[float]:
    """Score [b, 3, h, w] with the `score` of image-reward: standardized, a picture at a time.

    The environment variable `IMAGE_REWARD` names a checkpoint, `FILE#sha256=<64 digits>` (otherwise
    `ImageReward-v1.0` is downloaded), and `IMAGE_REWARD_CONFIG` its `med_config.json`.
    """
    model = _image_reward()
    return [float(model.score(p, i)) for p, i in zip(prompts, _pictures(images), strict=True)]


def hpsv2(images: Tensor, prompts: Sequence[str]) -> list[float]:
    """Score [b, 3, h, w] with the network, preprocessing and tokenizer of hpsv2, in one batch.

    Its own `score` reads the checkpoint anew for every picture; here it is read once. The
    environment variable `HPS_CHECKPOINT` names a file as above, otherwise `HPS_VERSION` (v2.0,
    v2.1) one to download.
    """
    import torch

    model, preprocess, tokenizer = _hpsv2()
    device = model.logit_scale.device
    pixels = torch.stack([preprocess(picture) for picture in _pictures(images)]).to(device)
    with torch.no_grad(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        found = model(pixels, tokenizer(list(prompts)).to(device))
        return (found["image_features"] * found["text_features"]).sum(-1).float().tolist()


@cache
def _image_reward() -> Any:
    package = _imported("ImageReward", "image-reward")
    config = os.environ.get("IMAGE_REWARD_CONFIG") or _fetched("image-reward", "med_config.json")
    path = _checkpoint("IMAGE_REWARD") or _fetched("image-reward", "ImageReward.pt")
    with _weights_only():
        return package.load(path, med_config=config)


@cache
def _hpsv2() -> tuple[Any, Any, Any]:
    """Return hpsv2's network with its weights, its preprocessing and its tokenizer."""
    import torch

    mend_hpsv2()
    source = _imported("hpsv2.src.open_clip", "hpsv2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _, preprocess = source.create_model_and_transforms(
        "ViT-H-14", precision="amp", device=device, light_augmentation=True, output_dict=True
    )
    state = torch.load(_hpsv2_checkpoint(), map_location=device, weights_only=True)
    model.load_state_dict(state["state_dict"])
    return model.eval(), preprocess, source.get_tokenizer("ViT-H-14")


vars(image_reward).update(load=_image_reward)
vars(hpsv2).update(load=_hpsv2, scale=100)


def _hpsv2_checkpoint() -> str:
    if path := _checkpoint("HPS_CHECKPOINT"):
        return path
    files = _imported("hpsv2.utils", "hpsv2").hps_version_map
    version = os.environ.get("HPS_VERSION", "v2.0")
    if version not in files:
        raise RewardError(f"HPS_VERSION is {version!r}; expected one of {', '.join(files)}")
    return _fetched("hpsv2", files[version])


def _fetched(package: str, name: str) -> str:
    """Return a file of the hub, at the commit that is known."""
    from huggingface_hub import hf_hub_download

    repo, commit = PUBLISHED[package]
    return hf_hub_download(repo, name, revision=commit)


def _checkpoint(variable: str) -> str:
    """Return the file that an environment variable names, if its bytes are those that were meant.

    Raises:
        RewardError: if they are not, or were not said.
    """
    if not (given := os.environ.get(variable)):
        return ""
    try:
        path, digest = split(given)
        with open(path, "rb") as file:
            check(file, Path(path), digest, False, f"{variable}={path}")
    except (OSError, CheckpointRefused) as error:
        raise RewardError(f"{variable}: {error}") from None
    return path


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Let `torch.load` read tensors only, which packages from before that option do not ask for."""
    import torch

    usual = torch.load
    torch.load = partial(usual, weights_only=True)
    try:
        yield
    finally:
        torch.load = usual


def mend_hpsv2() -> None:
    """Give hpsv2 what its import needs and its wheel lacks.

    That is the vocabulary, which open-clip-torch ships, and a name of `turtle`, which it never
    uses and which Pythons without Tk cannot import.
    """
    try:
        import turtle  # noqa: F401
    except ImportError:
        sys.modules["turtle"] = types.ModuleType("turtle")
        sys.modules["turtle"].forward = None  # pyright: ignore[reportAttributeAccessIssue]
    wanted = _folder("hpsv2") / "src" / "open_clip" / VOCABULARY
    if not wanted.is_file():
        partial = wanted.with_suffix(f".{os.getpid()}")
        shutil.copyfile(_folder("open_clip") / VOCABULARY, partial)
        os.replace(partial, wanted)
        print(f"copied the vocabulary that hpsv2's wheel lacks to {wanted}", flush=True)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise RewardError(f"{package} is not installed here; see environments/hpsv2.txt")
    return Path(found.origin).parent


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RewardError(
            f"{package} does not import here ({error}); see environments/{package}.txt"
        ) from error


def _pictures(images: Tensor) -> list[Any]:
    """Return PIL pictures."""
    import torch
    from PIL import Image

    levels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in levels]

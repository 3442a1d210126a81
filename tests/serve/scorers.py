"""Rewards that a test's server serves, some of them bad."""

import os
import time
from pathlib import Path

import torch


def bright(images, prompts):
    """Mean over the picture, and a little for the prompt's length."""
    return images.mean((1, 2, 3)) + 0.01 * torch.tensor([float(len(p)) for p in prompts])


bright.scale = 10


def _again(name):
    """Count calls in a file, so that a new server goes on counting."""
    file = Path(os.environ["COUNT_IN"]) / name
    calls = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(calls))
    return calls


def slow_twice(images, prompts):
    """Too slow for its first two callers."""
    if _again("slow") <= 2:
        time.sleep(3)
    return bright(images, prompts)


def dies(images, prompts):
    """Ends its own process at the fourth call."""
    if _again("dies") == 4:
        os._exit(9)
    return bright(images, prompts)


def not_a_number(images, prompts):
    """Has no answer at the fifth call."""
    scores = bright(images, prompts)
    if _again("nan") == 5:
        scores[1] = torch.nan
    return scores


def picky(images, prompts):
    """Fails for whole calls that hold a bad prompt."""
    if "bad" in prompts:
        raise RuntimeError("bad")
    return bright(images, prompts)


def slow(images, prompts):
    """Too slow for anybody."""
    _again("slow")
    time.sleep(2)
    return bright(images, prompts)


def tired(images, prompts):
    """Fails at the tenth call: after an evaluation and four epochs of two calls."""
    if _again("tired") == 10:
        raise RuntimeError("too late")
    return bright(images, prompts)


def best(images, prompts):
    """Rank of each picture among those of the call."""
    return images.mean((1, 2, 3)).argsort().argsort()


best.groupwise = True


def too_few(images, prompts):
    """Forgets a picture."""
    return bright(images, prompts)[1:]


def raises(images, prompts):
    """Fails, and its message must stay at home."""
    raise RuntimeError("the password is 1234")


for _function in (slow_twice, dies, not_a_number, tired):
    _function.scale = bright.scale

"""Preparing pictures for a reward, apart from the published pixels in `tests/parity`."""

import torch

from diffrl.builtin.rewards import bicubic, pixels
from diffrl.builtin.rewards.pixels import Preprocess


def test_what_pictures_are_multiplied_with_is_made_once_for_each_size():
    prepare = Preprocess(24, (24, 24), [0.5, 0.25, 0.5], [0.5, 0.25, 0.75])
    images, kept = torch.rand(1, 3, 40, 56), (bicubic.placed, pixels.placed)
    first = prepare(images)
    made = [one.cache_info().misses for one in kept]
    assert torch.equal(prepare(images), first)
    prepare(torch.rand(2, 3, 40, 56).requires_grad_()).sum().backward()
    assert [one.cache_info().misses for one in kept] == made
    prepare(images.to("meta"))  # of which a plan counts all bytes
    assert [one.cache_info().misses for one in kept] == made
    levels = bicubic.levels(images * 255)
    across, down = bicubic.weights(56, 33), bicubic.weights(40, 24)
    rows = (levels.double() @ across.T + 0.5).floor().clamp(0, 255)
    wanted = (down @ rows + 0.5).floor().clamp(0, 255).float()[..., 4:28]
    mean, std = (torch.tensor(v)[:, None, None] for v in (prepare.mean, prepare.std))
    assert torch.equal(first, (wanted / 255 - mean) / std)

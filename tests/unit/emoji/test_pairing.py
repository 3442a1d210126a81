"""What a noisy state stands for, and the chains that are aimed at it."""

import numpy as np
import pytest
import torch

from diffrl.emoji import ROOT
from diffrl.emoji.chains import renew, start, walk
from diffrl.emoji.diffusion import noised
from diffrl.emoji.pairing import Pairing, layout
from diffrl.emoji.train_pickscore import richness
from diffrl.emoji.train_vae import load_vae
from diffrl.emoji.world import ANIMALS, Scene

SCENES = [Scene((name,)) for name in ANIMALS]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pairing():
    return Pairing(load_vae(ROOT / "weights"))


def test_normal_coordinates_make_every_paper_equally_likely():
    drawn = layout(torch.randn(4000, 3, generator=seeded()))
    assert {(one.x, one.y) for one in drawn} == {(0.5, 0.5)}
    for name in ("hue", "depth", "light"):
        shares, _ = np.histogram([getattr(one, name) for one in drawn], bins=5, range=(0, 1))
        assert abs(shares / 4000 - 0.2).max() < 0.03


def test_pale_papers_are_those_of_the_same_hue_and_light_at_half_the_depth():
    z = torch.randn(50, 3, generator=seeded())
    for rich, pale in zip(layout(z), layout(z, 0.5), strict=True):
        assert (pale.hue, pale.light) == (rich.hue, rich.light)
        assert pale.depth == pytest.approx(rich.depth / 2)


def test_pure_noise_reads_as_standard_normal(pairing):
    noise = torch.randn(2000, 4, 16, 16, generator=seeded(1))
    z = pairing.read(noise, torch.full((2000,), 999))
    assert z.mean(0).abs().max() < 0.1
    assert (z.std(0) - 1).abs().max() < 0.05


@pytest.mark.parametrize(("time", "least"), [(500, 0.85), (750, 0.75), (874, 0.5)])
def test_a_noisy_picture_reads_as_the_paper_it_shows(pairing, time, least):
    """The more so the less noise there is on it."""
    z = torch.randn(180, 3, generator=seeded(2))
    latents = pairing.encoded(SCENES * 4, z)
    times = torch.full((180,), time)
    x = noised(latents, torch.randn(latents.shape, generator=seeded(3)), times)
    read = pairing.read(x, times)
    for way in (0, 1):
        assert torch.corrcoef(torch.stack([read[:, way], z[:, way]]))[0, 1] > least


def test_chains_end_at_what_they_stand_for_and_are_renewed(pairing):
    length, eta = np.array([1, 2, 4]), np.ones(3, np.float32)
    chains = start(pairing, SCENES[:3], torch.zeros(3, 16, 128), length, eta, seeded())
    first = chains.target.clone()
    walk(chains, chains.target, pairing, seeded(1))
    assert chains.place.tolist() == [1, 1, 1]
    assert torch.equal(chains.target[:2], first[:2])  # at its end, or settled
    assert not torch.equal(chains.target[2], first[2])  # aims anew
    assert torch.allclose(chains.x[0], first[0], atol=0.2)

    def fresh(count):
        assert count == 1
        return start(pairing, SCENES[9:10], torch.ones(1, 16, 128), length[1:2], eta[:1])

    kept = chains.x[1:].clone()
    renew(chains, fresh)
    assert chains.place.tolist() == [0, 1, 1] and chains.scene[0] == SCENES[9]
    assert torch.equal(chains.x[1:], kept)


def test_richness_is_that_of_the_frame():
    x = torch.full((3, 3, 64, 64), 0.9)
    x[1, 2, :4] = x[1, 2, -4:] = x[1, 2, :, :4] = x[1, 2, :, -4:] = 0.765  # saturation 0.15
    x[2, :, 8:56, 8:56] = 0.1
    assert richness(x).tolist() == pytest.approx([0.0, 0.5, 0.0], abs=1e-3)

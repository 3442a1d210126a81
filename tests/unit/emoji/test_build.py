import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffrl.emoji import PIPELINE, build, world
from diffrl.emoji.damage import DAMAGES, damaged
from diffrl.emoji.diffusion import clean_from_v, hop, new_scheduler, trailing
from diffrl.emoji.ladder import _quality
from diffrl.emoji.render import render
from diffrl.emoji.tokenizer import save_tokenizer, words


def test_every_damage_keeps_shape_and_grows_with_strength():
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear")
    for name, damage in DAMAGES.items():
        mild, strong = (
            damage(x, torch.full((4,), amount), torch.Generator().manual_seed(1))
            for amount in (0.1, 0.9)
        )
        assert mild.shape == x.shape
        assert (mild - x).abs().mean() < (strong - x).abs().mean(), name


def test_damage_is_seeded_and_leaves_its_input_alone():
    x = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before, strength = x.clone(), torch.full((6,), 0.5)
    a, b = (damaged(x, strength, torch.Generator().manual_seed(2), 2) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(x, before)


def test_quality_falls_with_blur():
    rng = np.random.default_rng(0)
    sharp = torch.from_numpy(np.stack([render(name, rng) for name in ("lion", "fox", "bee")]))
    sharp = sharp.permute(0, 3, 1, 2)
    soft, softer = (
        torch.nn.functional.avg_pool2d(sharp.float(), k, 1, k // 2).byte() for k in (3, 7)
    )
    quality = _quality(torch.stack([softer, soft, sharp], 1))
    assert quality[:, 2].allclose(torch.full((3,), 0.97))
    assert (quality.diff(dim=1) > 0.05).all()


def test_every_word_of_the_world_is_one_token(tmp_path):
    tokenizer = save_tokenizer(tmp_path)
    assert all(len(tokenizer(word).input_ids) == 3 for word in words())
    assert all(len(tokenizer(text).input_ids) <= 16 for text in world.HELD_OUT)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_hop_is_the_ddim_step_of_diffusers(eta):
    scheduler = new_scheduler()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == trailing(4)
    rng = torch.Generator().manual_seed(0)
    x, v, z = (torch.randn(2, 4, 16, 16, generator=rng) for _ in range(3))
    now, later = (torch.full((2,), t) for t in (749, 499))
    ours = hop(x, clean_from_v(x, v, now), now, later, torch.full((2,), eta), z)
    theirs = scheduler.step(v, 749, x, eta=eta, variance_noise=z if eta else None).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_saved_scheduler_is_the_trained_one():
    saved = DDIMScheduler.from_pretrained(PIPELINE / "scheduler")
    ours, theirs = (
        {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        for scheduler in (new_scheduler(), saved)
    )
    assert ours == theirs


@pytest.mark.slow
def test_a_quick_build_writes_every_file(tmp_path):
    build.main([str(tmp_path), "--quick"])
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    kept = PIPELINE.parent
    assert {str(p.relative_to(kept)) for p in kept.rglob("*") if p.is_file()} <= made

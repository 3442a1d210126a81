import contextlib

import pytest
import torch

from diffrl.adapters import attach_lora
from diffrl.builtin.samplers import Ddim
from diffrl.speed.formats import DTYPES
from diffrl.trainer.session import open_pipeline, policy_of
from diffrl.types import Advantages, Minibatch, gather


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    from diffrl.testing.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    from diffrl.testing.tiny import save_tiny_clip

    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


class World:
    """A tiny pipeline whose adapters are not zero, and what is drawn and trained with it."""

    def __init__(self, folder, precision="fp32", prepare=lambda pipeline: None, **policy):
        dtype = DTYPES[precision]
        self.pipeline = open_pipeline(str(folder), torch.device("cpu"), dtype)
        self.unet = self.pipeline.unet
        attach_lora(self.unet, 2, 2.0, 0)
        rng = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in (p for p in self.unet.parameters() if p.requires_grad):
                weight.add_(0.1 * torch.randn(weight.shape, generator=rng))
        prepare(self.pipeline)

        def call(*args, **options):
            mixed = precision != "fp32"
            with torch.autocast("cpu", dtype) if mixed else contextlib.nullcontext():
                return self.unet(*args, **options)

        self.policy = policy_of(self.pipeline, call, None, 1.0, **policy)

    def rollout(self):
        text = ["a fox", "two owls"]
        with torch.no_grad(), self.policy.sampling():
            return Ddim(steps=3, group=2)(self.policy, text, torch.Generator().manual_seed(0))

    def batch(self, rollout, rows=((0, 1), (2, 3)), steps=((0, 1), (1, 2))):
        piece = Minibatch(torch.tensor(rows), torch.tensor(steps), True)
        return gather(rollout, Advantages(torch.ones(len(rollout), 3)), piece)

    def gradients(self, batch):
        log_prob = self.policy.log_prob(batch)
        rise = torch.linspace(-1, 1, log_prob.numel()).reshape(log_prob.shape)
        (log_prob * rise).sum().backward()
        found = {n: p.grad.clone() for n, p in self.policy.trained.items()}
        for p in self.policy.trained.values():
            p.grad = None
        return log_prob.detach(), found


@pytest.fixture
def world(tiny_model):
    """Makes such worlds."""
    return lambda *given, **options: World(tiny_model, *given, **options)


@pytest.fixture
def plain(world):
    return world()


def close(one, other, rtol=1e-4, atol=1e-6):
    """Whether gradients are the same up to rounding, on the scale of each weight."""
    for name, found in one.items():
        scale = float(other[name].abs().max())
        torch.testing.assert_close(found, other[name], rtol=rtol, atol=atol + rtol * scale)
    return bool(one)


@pytest.fixture
def same_gradients():
    return close

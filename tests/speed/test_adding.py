"""Adapters that add themselves to what a layer gives, beside peft's, which are added afterwards."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from diffrl.settings import SpeedSettings
from diffrl.speed.adding import fuse_adapters
from diffrl.speed.merging import merged
from diffrl.trainer.speed import ready


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.to_out = nn.Linear(6, 10, bias=False), nn.Linear(10, 8)

    def forward(self, x):
        return self.to_out(self.to_q(x).sin())


def adapted(**config):
    """Return the same layers twice, with peft's way and with ours."""
    torch.manual_seed(0)
    usual = {"lora_alpha": 7.0, "target_modules": ["to_q", "to_out"]}
    config = LoraConfig(r=3, **{**usual, **config})
    usual = inject_adapter_in_model(config, Layers())
    for weight in usual.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.3)
    fused = copy.deepcopy(usual)
    fuse_adapters(fused)
    return usual, fused


def trained(layers):
    return {n: p for n, p in layers.named_parameters() if p.requires_grad}


SHAPES = [(4, 6), (2, 5, 6), (2, 3, 5, 6), (0, 5, 6)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_peft(shape):
    usual, fused = adapted()
    one = torch.randn(shape, requires_grad=True)
    two = one.detach().clone().requires_grad_()
    outs = usual(one), fused(two)
    torch.testing.assert_close(outs[1], outs[0], rtol=1e-5, atol=1e-6)
    for out in outs:
        (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-6)
    wanted = trained(usual)
    assert len(wanted) == 4
    for name, weight in trained(fused).items():
        torch.testing.assert_close(weight.grad, wanted[name].grad, rtol=1e-5, atol=1e-5)


def test_what_lies_otherwise_in_memory_is_taken_as_it_is_seen():
    usual, fused = adapted()
    x = torch.randn(2, 6, 5).transpose(1, 2)
    kept = x.clone()
    torch.testing.assert_close(fused(x), usual(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(x, kept)


class Passes(TorchDispatchMode):
    """Counts sums and multiples of at least so many numbers."""

    def __init__(self, least):
        super().__init__()
        self.seen, self._least = 0, least

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sums = func.overloadpacket in (torch.ops.aten.add, torch.ops.aten.mul)
        self.seen += sums and out.numel() >= self._least
        return out


def test_no_pass_goes_over_what_a_layer_gave():
    passes = []
    for layers in adapted():
        with Passes(least=80) as counted:  # what the smaller layer gives
            layers(torch.randn(2, 5, 6)).square().mean().backward()
        passes.append(counted.seen)
    assert passes[0] - passes[1] == 2 * 3  # of two layers


def test_in_half_precision_sums_are_nearer_to_those_in_fp32():
    usual, fused = adapted()
    x = torch.randn(64, 5, 6)
    exact = usual(x).detach()
    off = []
    for layers in (usual, fused):
        for layer in (layers.to_q, layers.to_out):
            layer.base_layer.to(torch.bfloat16)
            layer.cast_input_dtype_enabled = False
        with torch.autocast("cpu", torch.bfloat16):
            out = layers(x)
        assert out.dtype == torch.bfloat16
        out.float().square().mean().backward()
        assert all(w.grad.dtype == torch.float32 for w in trained(layers).values())
        off.append(float((out.detach().float() - exact).square().mean().sqrt()))
    assert off[1] < off[0]


def test_other_weights_in_their_place_are_those_that_count():
    usual, fused = adapted()
    other = {n: torch.randn_like(p) for n, p in trained(usual).items()}
    x = torch.randn(2, 5, 6)
    found = functional_call(fused, other, (x,))
    torch.testing.assert_close(found, functional_call(usual, other, (x,)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, fused(x))


def test_adapters_that_are_off_or_merged_are_not_added():
    usual, fused = adapted()
    x = torch.randn(2, 5, 6)
    with merged(usual), merged(fused):
        assert torch.equal(fused(x), usual(x))
    torch.testing.assert_close(fused(x), usual(x), rtol=1e-5, atol=1e-6)
    for layers in (usual, fused):
        for layer in (layers.to_q, layers.to_out):
            layer.enable_adapters(False)
    assert torch.equal(fused(x), usual(x))


@pytest.mark.parametrize(
    "config",
    [
        {"lora_dropout": 0.5},
        {"use_dora": True},
        {"lora_bias": True, "target_modules": ["to_out"]},
    ],
    ids=str,
)
def test_other_kinds_of_adapter_stay_with_peft(config):
    usual, fused = adapted(**config)
    x = torch.randn(2, 5, 6)
    torch.manual_seed(1)
    wanted = usual(x)
    torch.manual_seed(1)
    assert torch.equal(fused(x), wanted)


def test_a_layer_that_is_looked_at_stays_with_peft():
    usual, fused = adapted()
    x, seen = torch.randn(2, 5, 6), []
    fused.to_q.base_layer.register_forward_hook(lambda *given: seen.append(given[2]))
    wanted = fused.to_q.base_layer(x)
    assert torch.equal(fused.to_q(x), usual.to_q(x))
    assert all(torch.equal(one, wanted) for one in seen) and len(seen) == 2
    for layers in (usual, fused):
        layers.to_out.base_layer.register_full_backward_hook(lambda *_: None)
        layers(x).sum().backward()


def test_inputs_that_peft_casts_are_cast():
    usual, fused = adapted()
    for layers in (usual, fused):
        for layer in (layers.to_q, layers.to_out):
            layer.base_layer.to(torch.bfloat16)
    x = torch.randn(2, 5, 6, dtype=torch.bfloat16)
    assert torch.equal(fused(x), usual(x))


def test_a_vector_is_no_batch_of_rows():
    usual, fused = adapted()
    x = torch.randn(6)
    assert torch.equal(fused(x), usual(x))


def test_a_copy_has_adapters_of_its_own():
    _, fused = adapted()
    other, x = copy.deepcopy(fused), torch.randn(2, 5, 6)
    before = fused(x)
    with torch.no_grad():
        for weight in trained(other).values():
            weight.add_(1.0)
    assert torch.equal(fused(x), before) and not torch.allclose(other(x), before)


def test_two_adapters_at_once_stay_with_peft():
    usual, fused = adapted()
    config = LoraConfig(r=2, target_modules=["to_q", "to_out"], init_lora_weights=False)
    for layers in (usual, fused):
        torch.manual_seed(2)
        with pytest.warns(UserWarning, match="multiple adapters"):
            inject_adapter_in_model(config, layers, adapter_name="second")
        for layer in (layers.to_q, layers.to_out):
            layer.set_adapter(["default", "second"])
    x = torch.randn(2, 5, 6)
    assert torch.equal(fused(x), usual(x))
    for layers in (usual, fused):
        for layer in (layers.to_q, layers.to_out):
            layer.set_adapter("second")
    torch.testing.assert_close(fused(x), usual(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("speed", "fused"),
    [
        ({}, True),
        ({"fused_adapters": "off"}, False),
        ({"compile": "default"}, False),
        ({"compile": "default", "fused_adapters": "on"}, True),
    ],
    ids=str,
)
def test_adapters_of_a_run_are_fused_unless_a_compiler_does_it(speed, fused, plain, monkeypatch):
    monkeypatch.setattr("diffrl.trainer.speed.compile_forward", lambda *_: None)
    ready(plain.pipeline, SpeedSettings(**speed))
    layers = [m for m in plain.unet.modules() if hasattr(m, "lora_A")]
    assert layers and all(("forward" in vars(m)) is fused for m in layers)

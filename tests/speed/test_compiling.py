"""Compiled networks: few shapes, the same numbers, a gap that stays small, one line of error."""

import os
import threading
from types import MethodType

import pytest
import torch

import diffrl
from diffrl.errors import CompileFailed, SettingsError
from diffrl.settings.resolve import resolve
from diffrl.speed import compiling
from diffrl.speed.compiling import (
    compile_problems,
    keep_kernels,
    seconds_compiling,
    sized_as_in_updates,
    steady,
)
from diffrl.trainer.speed import speed_problems

CLIP = 1e-4


class Rows(torch.nn.Module):
    """Doubles rows, each by itself, and notes how many it was given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, t, scale=None, return_dict=False):
        given = (x, t if t.ndim else None, scale)
        self.sizes.append(tuple(None if one is None else len(one) for one in given))
        out = x * 2 + (t[:, None] if t.ndim else t)
        return (out if scale is None else out * scale,)


def called(rows, forward, module, **options):
    x = torch.arange(2.0 * rows).reshape(rows, 2).requires_grad_()
    (out,) = forward(module, x, torch.arange(rows), **options)
    return x, out


def test_uneven_batches_are_filled_up_to_a_known_size_and_cut_again():
    module = Rows()
    forward = steady(Rows.forward, "default", "network")
    with torch.no_grad():
        for rows, size in [(8, 8), (5, 8), (4, 8), (3, 3), (2, 3), (9, 9), (1, 1)]:
            _, out = called(rows, forward, module, scale=torch.ones(rows, 1))
            assert module.sizes[-1] == (size, size, size)
            assert torch.equal(out, called(rows, Rows.forward, Rows())[1]), rows
        forward(module, torch.ones(2, 2), torch.tensor(3.0))
        assert module.sizes[-1] == (3, None, None)


def test_a_call_before_updates_is_as_large_as_theirs():
    module, forward = Rows(), steady(Rows.forward, "default", "network")
    with torch.no_grad():
        called(8, forward, module)  # as sampling does
        with sized_as_in_updates():
            called(5, forward, module)
            called(4, forward, module)
        called(4, forward, module)
    called(4, forward, module)
    assert [size for size, _, _ in module.sizes] == [8, 5, 5, 8, 5]


def test_gradients_have_memory_of_their_own_where_graphs_write_over_them():
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)

    def graph(self, x, t):
        return (self.weight @ x.T,)

    for mode, own in (("default", False), ("reduce-overhead", True)):
        network.weight.grad = None
        steady(graph, mode, "network")(network, torch.ones(2, 2), torch.zeros(2))
        assert (network.weight.grad is not None) is own and network.bias.grad is None


def test_rows_that_fill_up_have_no_gradient():
    module, forward = Rows(), steady(Rows.forward, "default", "network")
    called(4, forward, module)
    x, out = called(3, forward, module)
    assert module.sizes[-1][0] == 4
    out.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


def test_outputs_outlive_the_next_call_where_graphs_write_over_them():
    module, buffer = Rows(), torch.zeros(2, 2)

    def graph(self, x, t):
        return (buffer.copy_(x * 2),)  # as a CUDA graph does: always into the same memory

    forward = steady(graph, "reduce-overhead", "network")
    with torch.no_grad():
        (first,) = forward(module, torch.ones(2, 2), torch.zeros(2))
        forward(module, torch.zeros(2, 2), torch.zeros(2))
    assert torch.equal(first, torch.full((2, 2), 2.0))


def test_what_cannot_be_compiled_is_one_line():
    from torch._dynamo.exc import TorchDynamoException

    def broken(self, x, t):
        raise TorchDynamoException("no kernel for this\nand a page of advice")

    with pytest.raises(CompileFailed) as failed:
        steady(broken, "default", "UNet")(Rows(), torch.ones(1, 1), torch.zeros(1))
    assert str(failed.value) == (
        "speed.compile = 'default': cannot compile the UNet (no kernel for this); "
        "--set speed.compile=off"
    )


def test_a_missing_compiler_is_told_before_weights_load(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert compile_problems("off", "cpu") == []
    with pytest.raises(SettingsError, match=r"speed\.compile = 'default': needs a C\+\+ compiler"):
        diffrl.train(
            "sdpo",
            "jpeg-compressibility",
            sets=["speed.compile=default", f"model.ref={tiny_model}"],
            output=tmp_path / "run",
            live=False,
        )
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    assert "triton (pip install triton)" in compile_problems("max-autotune", "cuda")[0]


def test_kernels_are_kept_in_the_users_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("TORCHINDUCTOR_FX_GRAPH_CACHE", raising=False)
    folder = keep_kernels()
    assert folder == tmp_path / "diffrl" / "kernels"
    assert folder.stat().st_mode & 0o077 == 0
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "own"))
    assert keep_kernels() == tmp_path / "own"


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A cache of its own, so that something is compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    torch._dynamo.reset()
    yield tmp_path / "kernels"
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_networks_give_the_same_numbers(precision, world, kernels, same_gradients):
    """Pictures, log-probs, all three sets of weights and gradients; merged adapters, too."""
    from diffrl.settings import SpeedSettings
    from diffrl.trainer.speed import ready

    before = seconds_compiling()
    usual = world(precision)
    made = world(precision, lambda pipeline: ready(pipeline, SpeedSettings(compile="default")))
    one, two = usual.rollout(), made.rollout()
    half = precision == "bf16"
    torch.testing.assert_close(two.path.log_prob, one.path.log_prob, rtol=0, atol=CLIP / 10)
    if not half:
        torch.testing.assert_close(two.x0, one.x0, rtol=1e-3, atol=1e-3)
    batch = made.batch(two)  # four rows, as in sampling
    _, others = usual.gradients(batch)
    found, gradients = made.gradients(batch)
    assert float((found - batch.log_prob).abs().max()) < CLIP / 10
    few = made.batch(two, rows=((2, 3),), steps=((0, 2),))  # filled up
    found, _ = made.gradients(few)
    assert float((found - few.log_prob).abs().max()) < CLIP / 10
    if not half:
        assert same_gradients(gradients, others, rtol=1e-2)
        for weights in ("base", "old"):
            with torch.no_grad():
                found, wanted = (w.policy.log_prob(batch, weights) for w in (made, usual))
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert seconds_compiling() > before
    assert any(kernels.rglob("*"))
    names = {n for n, _ in made.unet.named_parameters()}
    assert names == {n for n, _ in usual.unet.named_parameters()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_compiled_run_tells_what_compiling_took(tiny_model, tiny_clip, tmp_path, kernels):
    sets = [
        f"model.ref={tiny_model}", f"rewards.pickscore.checkpoint={tiny_clip}",
        "train.trajectories=4", "sampler.lengths=[]", "sampler.steps=2", "eval.images=2",
        "eval.steps=[1]", "eval.watch=[]", "speed.compile=default", "train.micro_batch=2",
    ]  # fmt: skip
    run = diffrl.train(
        "sdpo", "pickscore", sets=sets, epochs=2, output=tmp_path / "run", live=False
    )
    start, first, second = run.metrics
    assert start["seconds/compile"] > 1 and first["seconds/compile"] > 1
    assert "seconds/compile" not in second
    seconds = first["seconds/sample"] + first["seconds/score"] + first["seconds/update"]
    assert first["samples_per_second"] > 4 / seconds
    assert first["log_prob_gap/max"] < CLIP / 10
    pipeline = run.pipeline()
    assert pipeline.unet.peft_config


def test_the_values_of_whole_trajectories_are_computed_in_calls_as_large_as_their_gradients(world):
    sizes = []

    def prepare(pipeline):
        plain = type(pipeline.unet).forward

        def noted(self, x, *args, **options):
            sizes.append((torch.is_grad_enabled(), len(x)))
            return plain(self, x, *args, **options)

        pipeline.unet.forward = MethodType(steady(noted, "default", "UNet"), pipeline.unet)

    made = world(prepare=prepare)
    batch = made.batch(made.rollout(), rows=((0, 1),), steps=((0, 1),))
    assert {size for _, size in sizes} == {4}
    sizes.clear()
    made.gradients(batch)  # of two steps: their values first, then each anew with its gradient
    assert sizes == [(False, 2), (False, 2), (True, 2), (True, 2)]


def test_every_thread_may_compile_as_many_versions(monkeypatch):
    from torch._dynamo import config

    seen, limit = (
        [],
        "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit",
    )

    def compiled(*given, **_):
        seen.append(getattr(config, limit))
        return (given[1],)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    module = torch.nn.Linear(2, 2)
    compiling.compile_forward(module, "default", "network")
    thread = threading.Thread(target=lambda: module(torch.ones(3, 2)))
    thread.start()
    thread.join()
    assert seen == [compiling.VARIANTS]


def test_a_compiled_decoder_stays_in_its_own_thread():
    for mode, beside in (("off", True), ("default", False)):
        settings = resolve("sdpo", ["pickscore"], sets=[f"speed.compile={mode}"])
        assert settings.overlaps("cuda") is beside
    served = ["http://127.0.0.1:1/"]
    for mode, beside in (("default", True), ("reduce-overhead", False)):
        settings = resolve("sdpo", served, sets=[f"speed.compile={mode}"])
        assert settings.overlaps("cuda") is beside
    both = ["speed.compile=reduce-overhead", "train.overlap=on"]
    found = speed_problems(resolve("sdpo", ["pickscore"], sets=both))
    assert any("train.overlap = 'on': not with speed.compile = 'reduce" in one for one in found)

"""Recorded networks: the same numbers, and the plain network where a recording would be wrong."""

import copy
from types import MethodType

import pytest
import torch

import diffrl
from diffrl.errors import SettingsError
from diffrl.speed.compiling import own_gradients, steady
from diffrl.speed.fitting import Fitting
from diffrl.speed.graphs import Bare, Graphed, graph_forward, graph_problems, on_this_stream


class Recorder:
    """Records as a GPU does, as far as memory goes: inputs and output lie where they always lie."""

    def __init__(self):
        self.made, self.replays = 0, 0

    def __call__(self, network, plain, gradient, given, names):
        self.made += 1
        static, bare = tuple(one.detach().clone() for one in given), Bare(network, plain, names)
        buffer = bare(*static).detach().clone()

        def replay(*inputs):
            self.replays += 1
            for mine, one in zip(static, inputs, strict=True):
                mine.copy_(one)
            out = bare(*static)
            return out if gradient else buffer.copy_(out)

        return replay


def test_a_recording_that_fails_leaves_the_thread_on_its_own_stream(monkeypatch):
    now = ["own"]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: now[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", now.append)
    with pytest.raises(RuntimeError, match="out of memory"), on_this_stream():
        torch.cuda.set_stream("of the recording")
        raise RuntimeError("CUDA error: out of memory")
    assert now == ["own", "of the recording", "own"]


@pytest.fixture
def recorded(world):
    """A world whose network is recorded, and its recorder."""
    recorder = Recorder()

    def prepare(pipeline):
        unet = pipeline.unet
        recorder.graphed = Graphed(unet, type(unet).forward, recorder)
        unet.forward = MethodType(steady(recorder.graphed, "graphs", "UNet"), unet)

    return world(prepare=prepare), recorder


def test_rollouts_log_probs_and_gradients_are_those_of_the_plain_network(
    recorded, plain, same_gradients
):
    made, recorder = recorded
    one, two = plain.rollout(), made.rollout()
    assert torch.equal(one.x0, two.x0) and torch.equal(one.path.log_prob, two.path.log_prob)
    assert (recorder.made, recorder.replays) == (1, 3)
    for _ in range(2):  # gradients of both add up to those of both
        batch = made.batch(two, steps=((0,), (1,)))
        (found, gradients), (wanted, others) = made.gradients(batch), plain.gradients(batch)
        torch.testing.assert_close(found, wanted)
        assert same_gradients(gradients, others)
    assert (recorder.made, recorder.replays) == (2, 5)


def test_other_weights_and_a_second_call_before_the_backward_pass_are_not_replayed(recorded):
    made, recorder = recorded
    batch = made.batch(made.rollout(), steps=((0,), (1,)))
    before = recorder.replays
    for weights in ("old", "base"):
        made.policy.log_prob(batch, weights=weights)
    assert recorder.replays == before
    first = made.policy.log_prob(batch)
    second = made.policy.log_prob(batch)
    assert recorder.replays == before + 1
    (first.sum() + second.sum()).backward()
    made.policy.log_prob(batch)
    assert recorder.replays == before + 2


@pytest.mark.parametrize("weights", ["old", "base"])
def test_what_is_called_first_with_other_weights_is_not_taken_for_the_networks_own(
    weights, recorded, plain
):
    made, recorder = recorded
    batch = made.batch(plain.rollout(), steps=((0,), (1,)))
    with torch.no_grad():
        for weight in made.policy.trained.values():
            weight.add_(0.1)
        made.policy.log_prob(batch, weights=weights)
        assert recorder.made == 0
        found = made.policy.log_prob(batch)
        made.unet.forward = MethodType(type(made.unet).forward, made.unet)
        assert torch.equal(found, made.policy.log_prob(batch))


def test_a_copy_and_a_network_without_its_adapters_are_not_replayed(recorded):
    made, recorder = recorded
    rollout = made.rollout()
    given = rollout.x0, torch.full((4,), 5.0), rollout.prompts.cond
    with torch.no_grad():
        with_adapters = made.unet(*given, return_dict=False)[0]
        other, before = copy.deepcopy(made.unet), recorder.replays
        for weight in other.parameters():
            weight.zero_()
        assert not torch.equal(other(*given, return_dict=False)[0], with_adapters)
        made.unet.disable_adapters()
        assert not torch.equal(made.unet(*given, return_dict=False)[0], with_adapters)
        assert recorder.replays == before
        made.unet.enable_adapters()
        assert torch.equal(made.unet(*given, return_dict=False)[0], with_adapters)
        assert recorder.replays == before + 1


def test_weights_without_gradients_get_some_that_are_zero():
    first, second = (torch.nn.Parameter(torch.randn(2, 3, 2, 2)) for _ in range(2))
    last = torch.nn.Parameter(torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last))
    second.grad = torch.ones_like(second)
    for _ in range(2):
        own_gradients(iter([first, second, last]))
        assert second.grad.all() and not first.grad.any() and not last.grad.any()
    assert last.grad.stride() == last.stride()
    assert first.grad.data_ptr() != last.grad.data_ptr()


def test_recordings_are_let_go_where_memory_ends_and_a_half_is_a_half(recorded):
    made, recorder = recorded
    rollout, tried = made.rollout(), []

    def attempt(rows):
        tried.append(rows)
        given = rollout.x0[:rows], torch.zeros(rows), rollout.prompts.cond[:rows]
        out = made.unet(*given, return_dict=False)[0]
        if rows > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return len(out)

    with torch.no_grad():
        assert Fitting("train.sample_batch", 4).run(attempt, 4) == 2
    assert tried == [4, 4, 2]  # once more, beside no recordings
    assert [key[2][0][0] for key in recorder.graphed._known] == [2]


def test_gradients_have_memory_of_their_own(recorded):
    made, _ = recorded
    batch = made.batch(made.rollout(), steps=((0,), (1,)))
    made.policy.log_prob(batch)
    assert all(float(p.grad.abs().max()) == 0 for p in made.policy.trained.values())


def test_where_graphs_cannot_be_is_said_before_weights_load(tiny_model, tmp_path):
    assert graph_problems(False, "cpu", 2, {"speed.merge": True}) == []
    assert graph_problems(True, "cuda:1", 1, {"speed.merge": False}) == []
    assert graph_problems(True, "cuda", 1, {"speed.merge": True}) == [
        "speed.graphs = True: cannot be together with speed.merge"
    ]
    assert "not with 2 processes" in graph_problems(True, "cuda", 2, {})[0]
    sets = [f"model.ref={tiny_model}", "model.device=cpu", "speed.graphs=true"]
    with pytest.raises(SettingsError, match="CUDA graphs need a GPU of NVIDIA, not 'cpu'"):
        diffrl.train("sdpo", "pickscore", sets=sets, output=tmp_path / "run", live=False)


@pytest.mark.gpu
def test_a_recording_is_the_plain_network_to_the_bit(tiny_model):
    from diffrl.adapters import attach_lora
    from diffrl.trainer.session import open_pipeline

    found = []
    for record in (False, True):
        unet = open_pipeline(str(tiny_model), torch.device("cuda"), torch.bfloat16).unet
        attach_lora(unet, 2, 2.0, 0)
        trained = [p for p in unet.parameters() if p.requires_grad]
        rng = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for weight in trained:
                weight.add_(0.1 * torch.randn(weight.shape, generator=rng).cuda())
        if record:
            graph_forward(unet)
        side, width = unet.config.sample_size, unet.config.cross_attention_dim
        outs = []
        for seed, rows in enumerate((2, 3, 2)):  # a second size is recorded after the first one
            rng = torch.Generator().manual_seed(seed)
            x = torch.randn(rows, unet.config.in_channels, side, side, generator=rng).cuda()
            times = torch.tensor([5.0, 900.0, 40.0])[:rows].cuda()
            given = x, times, torch.full((rows, 7, width), float(seed)).cuda()
            with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
                outs.append(unet(*given, return_dict=False)[0])
            with torch.autocast("cuda", torch.bfloat16):  # anew: casts are remembered
                out = unet(*given, return_dict=False)[0]
            out.float().square().sum().backward()
            outs.append(out.detach())
        found.append([*outs, *(p.grad for p in trained)])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)

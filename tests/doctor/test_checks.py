"""Each check passes on a sound build, and catches one that is broken on purpose."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffrl.doctor import examine, training
from diffrl.doctor.rehearsal import fitted, rehearse
from diffrl.doctor.weights import kept, parameters
from diffrl.policy import UNetPolicy
from diffrl.speed.fitting import HOLDERS
from diffrl.speed.graphs import Bare
from diffrl.trainer import checkpoint

# of numpy, about diffusers' own Euler scheduler
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PASSING = {
    "memory": "pass",
    "log-prob gap": "pass",
    "gradient": "pass",
    "processes in step": "skip",
    "weights": "pass",
    "merged adapters": "pass",
    "saved adapter": "pass",
    "reward order: jpeg-compressibility": "pass",
}


def state(session):
    random = checkpoint.random_state(session.rng)
    return {
        "weights": {n: p.detach().clone() for n, p in parameters(session).items()},
        "trains": [p.requires_grad for p in parameters(session).values()],
        "old": session.policy.old(),
        "optimizer": session.ranks.optimizer.state_dict()["state"],
        "random": [random["rng"], random["torch"], random["numpy"][1]],
    }


@pytest.mark.parametrize("algo", ["sdpo", "ddpo", "d3po", "rebel"])
def test_a_sound_build_passes_and_is_left_as_it_was(algo, session_of):
    session = session_of(algo=algo)
    before = state(session)
    found = {f.check: f for f in examine(session, debug=True)}
    verdicts = {name: f.verdict for name, f in found.items()}
    if session.settings.recipe.loss.log_ratio_limit is None:
        assert "has no clip range" in found["log-prob gap"].measured
        assert verdicts["log-prob gap"] == "skip"
        verdicts["log-prob gap"] = "pass"
    assert verdicts == PASSING, found
    torch.testing.assert_close(state(session), before, rtol=0, atol=0)
    assert all(p.grad is None for p in parameters(session).values())


@pytest.mark.parametrize(
    "sets", [("adapter.kind=full",), ("model.guidance=3.0",), ("model.precision=bf16",)]
)
def test_other_sound_builds_pass(sets, session_of):
    found = examine(session_of(*sets), debug=True)
    allowed = {"log-prob gap"} if "model.precision=bf16" in sets else set()
    assert {f.check for f in found if f.verdict == "fail"} <= allowed, found


def test_noise_in_the_forward_pass_is_caught(session_of, verdict):
    session = session_of()
    assert verdict(session, "log-prob gap").verdict == "pass"
    for module in session.pipeline.unet.modules():
        if type(module).__name__ == "ResnetBlock2D":
            module.dropout = torch.nn.Dropout(0.1).train()
    finding = verdict(session, "log-prob gap")
    assert finding.verdict == "fail"
    assert "a tenth of the clip range" in finding.limit
    assert "dropout" in finding.advice


def test_an_adapter_without_gradient_is_caught(session_of, verdict):
    session = session_of()
    name = next(n for n in session.policy.trained if "lora_A" in n)
    session.policy.trained[name].requires_grad_(False)
    finding = verdict(session, "gradient")
    assert finding.verdict == "fail"
    assert f"a probe does not reach {name}" in finding.measured


def test_a_loss_that_is_detached_from_an_adapter_is_caught(session_of, verdict):
    session = session_of()
    name = next(n for n in session.policy.trained if "lora_B" in n).removesuffix(".weight")
    module = session.pipeline.unet.get_submodule(name)
    module.register_forward_hook(lambda module, given, out: out.detach())
    finding = verdict(session, "gradient")
    assert f"the loss does not reach {name}.weight" in finding.measured
    assert finding.verdict == "fail"


def test_a_frozen_weight_with_gradient_is_caught(session_of, verdict):
    session = session_of()
    session.pipeline.unet.conv_in.weight.requires_grad_(True)
    finding = verdict(session, "gradient")
    assert finding.verdict == "fail"
    assert "reaches conv_in.weight, which is not trained" in finding.measured


def test_a_base_weight_among_the_trained_is_caught(session_of, verdict, monkeypatch):
    from diffrl.trainer import session as module

    def attach(unet, *rest):
        original(unet, *rest)
        unet.conv_out.bias.requires_grad_(True)

    original = module.attach_lora
    monkeypatch.setattr(module, "attach_lora", attach)
    finding = verdict(session_of(), "gradient")
    assert finding.verdict == "fail"
    assert "conv_out.bias" in finding.measured


def test_rewards_that_teach_nothing_are_caught(session_of, verdict, monkeypatch):
    from diffrl.builtin.rewards import jpeg

    monkeypatch.setattr(
        jpeg, "jpeg_kilobytes", lambda images, quality: images.new_ones(len(images))
    )
    finding = verdict(session_of(algo="ddpo"), "gradient")
    assert finding.verdict == "fail"
    assert finding.measured == "all advantages are zero"


def test_adapters_merged_at_a_wrong_scale_are_caught(session_of, verdict, monkeypatch):
    from peft.tuners.lora.layer import Linear

    original = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda *a: 2 * original(*a))
    finding = verdict(session_of(), "merged adapters")
    assert finding.verdict == "fail"
    assert "adapter.alpha" in finding.advice


def test_old_weights_that_do_not_follow_are_caught(session_of, verdict, monkeypatch):
    monkeypatch.setattr(UNetPolicy, "follow", lambda self, decay: None)
    finding = verdict(session_of(), "weights")
    assert finding.verdict == "fail"
    assert "old and live, once it follows" in finding.measured


@pytest.mark.parametrize("kind", ["base", "old"])
def test_weights_that_are_the_live_ones_are_caught(kind, session_of, verdict):
    session = session_of()
    setattr(session.policy, f"_{kind}", {n: p.detach() for n, p in session.policy.trained.items()})
    finding = verdict(session, "weights")
    assert finding.verdict == "fail"
    assert f"{kind}, as live moves" in finding.measured


def test_old_weights_that_alias_live_after_following_are_caught(session_of, verdict, monkeypatch):
    def follow(self, decay):
        self._old = {n: p.detach() for n, p in self.trained.items()}

    monkeypatch.setattr(UNetPolicy, "follow", follow)
    finding = verdict(session_of(), "weights")
    assert finding.verdict == "fail"
    assert "old, as live moves on" in finding.measured


def test_a_base_other_than_the_bare_network_is_caught(session_of, verdict):
    session = session_of()
    session.policy._base = {n: p + 0.1 for n, p in session.policy._base.items()}
    finding = verdict(session, "weights")
    assert finding.verdict == "fail"
    assert "base and no adapters" in finding.measured


def test_a_file_without_alpha_is_caught(session_of, verdict, monkeypatch):
    session = session_of("adapter.rank=4", "adapter.alpha=8.0")
    assert verdict(session, "saved adapter").verdict == "pass"
    monkeypatch.setattr("diffrl.adapters._metadata", lambda unet: None)
    finding = verdict(session, "saved adapter")
    assert finding.verdict == "fail"
    assert "alpha and rank" in finding.advice


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")
def test_a_file_with_other_keys_is_caught(session_of, verdict, monkeypatch):
    import diffusers.utils

    original = diffusers.utils.convert_state_dict_to_diffusers
    swapped = ("down_blocks", "up_blocks")

    def renamed(state):
        return {n.replace(*swapped): p for n, p in original(state).items() if swapped[1] not in n}

    monkeypatch.setattr(diffusers.utils, "convert_state_dict_to_diffusers", renamed)
    assert verdict(session_of(), "saved adapter").verdict == "fail"


def test_a_reward_with_the_wrong_sign_is_caught(session_of, look, monkeypatch):
    from diffrl.builtin.rewards.jpeg import JpegCompressibility

    monkeypatch.setattr(JpegCompressibility, "higher_is_better", False)
    (finding,) = look(session_of(), "reward order")
    assert finding.verdict == "fail"
    assert "higher_is_better" in finding.advice


def test_a_reward_that_likes_noise_is_skipped(session_of, look):
    (finding,) = look(session_of(reward="jpeg-incompressibility"), "reward order")
    assert (finding.verdict, finding.measured) == ("skip", "noise is what this reward likes")


def test_memory_over_the_limit_is_caught(session_of, verdict, monkeypatch):
    session = session_of()
    assert verdict(session, "memory").verdict == "pass"
    used = training.peak(torch.device("cpu"))
    assert 2**27 < used < 2**37
    monkeypatch.setattr(training, "total_memory", lambda device: used)
    finding = verdict(session, "memory")
    assert finding.verdict == "fail"
    for setting in ("train.sample_batch", "train.micro_batch", "train.decode_batch"):
        assert setting in finding.advice


@pytest.mark.parametrize("graphs", [False, True])
def test_memory_of_recordings_is_looked_at_where_it_lies(graphs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 8)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 17)
    assert training.peak(torch.device("cuda"), graphs) == (17 if graphs else 8)


def test_pieces_are_halved_before_they_are_looked_at(session_of, monkeypatch):
    session = session_of()
    with kept(session):
        rehearsal = rehearse(session)
        plain = UNet2DConditionModel.forward

        def small(self, x, *given, **more):
            if torch.is_grad_enabled() and len(x) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return plain(self, x, *given, **more)

        monkeypatch.setattr(UNet2DConditionModel, "forward", small)
        assert session.pieces.micro.size == 3  # pairs
        whole, before = fitted(session, rehearsal), rehearsal.pieces
        assert session.pieces.micro.size == whole.size == 2
        assert [len(p.rows) for p in before] == [3, 1] and whole.rows == 4
        assert [len(p.rows) for p in whole.pieces] == [2, 2]
        assert all(p.grad is None for p in session.policy.trained.values())


def test_a_recording_is_asked_again_after_the_gap_was_looked_at(session_of, monkeypatch):
    made = []

    def recorded(network, plain, gradient, given, names):
        made.append(gradient)
        return Bare(network, plain, names)

    monkeypatch.setattr("diffrl.trainer.speed.graph_problems", lambda *_: [])  # on a CPU
    monkeypatch.setattr("diffrl.speed.graphs.record", recorded)
    session = session_of("model.precision=bf16", "speed.graphs=true")
    with kept(session):
        training.log_prob_gap(session, rehearse(session))
    (graphed,) = (h for h in HOLDERS if getattr(h, "_home", None) is session.pipeline.unet)
    assert True in made and not graphed._waiting


def test_an_error_inside_a_check_is_a_failed_finding(session_of, monkeypatch):
    def follow(self, decay):
        raise ValueError("cannot follow")

    monkeypatch.setattr(UNetPolicy, "follow", follow)
    found = {f.check: f for f in examine(session_of())}
    assert found["weights"].verdict == "fail"
    assert found["weights"].measured == "ValueError: cannot follow"
    assert found["saved adapter"].verdict == "pass"
    with pytest.raises(ValueError, match="cannot follow"):
        examine(session_of(), debug=True)


def test_sampling_that_fails_is_the_only_finding(session_of, monkeypatch):
    session = session_of()
    monkeypatch.setattr(type(session.judge), "each", lambda *a: 1 / 0)
    (finding,) = examine(session)
    assert (finding.check, finding.verdict) == ("sampling and scoring", "fail")
    assert "ZeroDivisionError" in finding.measured


def test_weights_come_back_even_after_an_error(session_of):
    session = session_of()
    before = state(session)
    with pytest.raises(KeyError), kept(session):
        for parameter in session.policy.trained.values():
            parameter.data.add_(1)
        torch.rand(3, generator=session.rng)
        raise KeyError
    torch.testing.assert_close(state(session), before, rtol=0, atol=0)

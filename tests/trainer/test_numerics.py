"""Precision, and gradients that are not finite."""

import contextlib
import json
import shutil

import pytest
import torch
from diffrl_ddpo.loss import ClippedRatio

import diffrl
from diffrl.builtin.samplers import Ddim
from diffrl.errors import Diverged, OutOfMemory, SettingsError
from diffrl.hookspecs import hookimpl
from diffrl.registry import registry
from diffrl.shelf import damage
from diffrl.speed.formats import DTYPES
from diffrl.trainer import checkpoint, epochs
from diffrl.trainer.packing import read_packed, write_packed
from diffrl.trainer.ranks import Ranks, accelerator
from diffrl.trainer.session import open_pipeline, policy_of
from diffrl.types import Advantages, LossOut, Minibatch, gather


@pytest.fixture
def spoilt(monkeypatch):
    """Makes the gradients of chosen backward passes nan, counted from 1."""
    chosen, calls = set(), [0]
    backward = Ranks.backward

    def broken(self, loss):
        calls[0] += 1
        backward(self, loss * torch.nan if calls[0] in chosen else loss)

    monkeypatch.setattr(Ranks, "backward", broken)
    return chosen


def finite(run):
    state = checkpoint.read(run.checkpoints[-1])
    return all(bool(w.isfinite().all()) for w in state["trained"].values())


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(spoilt, tiny_sets, tmp_path):
    spoilt |= {2, 3}
    sets = [*tiny_sets, "sampler.steps=4"]
    run = diffrl.train("sdpo", "pickscore", sets=sets, epochs=2, output=tmp_path / "r", live=False)
    assert sum(m.get("skipped", 0) for m in run.metrics) >= 1
    assert all(v == v for m in run.metrics for v in m.values())  # no nan is logged
    assert finite(run)
    assert run.metrics[-1]["updates"] >= 1


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_leaves_weights_and_optimizer_as_they_are(fused):
    made = accelerator("cpu", "fp32")
    network = torch.nn.Linear(2, 1)
    ranks = Ranks(made, 1.0)
    call = ranks.prepare(network, torch.optim.AdamW(network.parameters(), 0.1, fused=fused))
    ranks.backward(call(torch.ones(1, 2)).sum())
    ranks.commit()
    before = [p.clone() for p in network.parameters()]
    moments = ranks.optimizer.state_dict()["state"][0]["exp_avg"].clone()
    ranks.backward(call(torch.full((1, 2), torch.inf)).sum())
    assert not ranks.commit().isfinite()
    assert ranks.bad_steps.now == 1
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert torch.equal(moments, ranks.optimizer.state_dict()["state"][0]["exp_avg"])
    assert all(p.grad is None for p in network.parameters())
    ranks.backward(call(torch.ones(1, 2)).sum())
    ranks.commit()
    assert ranks.bad_steps.now == 0


def test_too_many_in_a_row_stop_the_run_which_is_saved(spoilt, tiny_sets, tmp_path):
    sets = [*tiny_sets, "optimizer.bad_steps=3", "checkpoint.every=100"]
    spoilt |= set(range(1, 1000))
    with pytest.raises(Diverged, match=r"not finite .*; epoch \d is saved; continue") as stopped:
        diffrl.train("sdpo", "pickscore", sets=sets, epochs=4, output=tmp_path / "r", live=False)
    assert stopped.value.exit_code == 3
    saved = diffrl.Run(tmp_path / "r").checkpoints[-1]
    assert checkpoint.read(saved)["watch"]["bad-steps"] >= 3
    spoilt.clear()
    again = diffrl.resume(tmp_path / "r", live=False)
    assert [m["epoch"] for m in again.metrics] == [0, 1, 2, 3, 4]
    assert finite(again)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_log_probs_are_in_fp32_from_fp32_latents_in_every_precision(precision, tiny_model):
    """The network computes in its precision; states, densities and gradients do not."""
    dtype = DTYPES[precision]
    pipeline = open_pipeline(str(tiny_model), torch.device("cpu"), dtype)
    diffrl.adapters.attach_lora(pipeline.unet, 2, 2.0, 0)
    mixed = precision != "fp32"

    def call(*args, **kwargs):
        guard = torch.autocast("cpu", dtype) if mixed else contextlib.nullcontext()
        with guard:
            return pipeline.unet(*args, **kwargs)

    policy = policy_of(pipeline, call, None, 1.0)
    with torch.no_grad():
        rollout = Ddim(steps=3, group=2)(policy, ["a fox"], torch.Generator().manual_seed(0))
    path = rollout.path
    assert {path.x.dtype, path.log_prob.dtype, rollout.x0.dtype} == {torch.float32}
    advantages = Advantages(torch.ones(2, 3))
    rows, steps = torch.tensor([[0, 1]]), torch.tensor([[0, 1, 2]])
    batch = gather(rollout, advantages, Minibatch(rows, steps, True))
    log_prob = policy.log_prob(batch)
    assert log_prob.dtype == torch.float32
    assert torch.equal(log_prob, batch.log_prob)  # of unchanged weights, to the last bit
    log_prob.sum().backward()
    grads = [p.grad for p in policy.trained.values() if p.grad is not None]
    assert grads and {g.dtype for g in grads} == {torch.float32}
    assert all(bool(g.isfinite().all()) for g in grads)


def test_weights_that_are_all_trained_were_never_rounded(tiny_model):
    first, rounded = (
        open_pipeline(str(tiny_model), torch.device("cpu"), torch.bfloat16, unet)
        for unet in (torch.float32, None)
    )
    weight, half = next(first.unet.parameters()), next(rounded.unet.parameters())
    assert (weight.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert not torch.equal(weight, half.float())
    assert next(first.vae.parameters()).dtype == torch.bfloat16


def test_the_scale_of_half_precision_is_in_the_checkpoint(tiny_model, tmp_path):
    """Found by a scaler that has backed off, and read back through the files of a checkpoint."""
    made = accelerator("cpu", "fp32")
    pipeline = open_pipeline(str(tiny_model), torch.device("cpu"), torch.float32)
    diffrl.adapters.attach_lora(pipeline.unet, 2, 2.0, 0)
    trained = [p for p in pipeline.unet.parameters() if p.requires_grad]
    ranks = Ranks(made, 1.0)
    policy = policy_of(
        pipeline, ranks.prepare(pipeline.unet, torch.optim.AdamW(trained)), None, 1.0
    )
    made.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    made.scaler.scale(torch.ones(()))  # it makes its scale when first used
    made.scaler.update(64.0)
    write_packed(checkpoint.trained(policy, ranks), tmp_path / "state")
    made.scaler.update(2.0)
    checkpoint.restore_trained(read_packed(tmp_path / "state"), policy, ranks)
    assert made.scaler.get_scale() == 64.0


def test_a_process_without_a_loss_of_its_own_takes_the_first_step_all_the_same():
    made = accelerator("cpu", "fp32")
    made.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    made.native_amp, made.state._mixed_precision = True, "fp16"  # as on a GPU
    network = torch.nn.Linear(2, 1)
    ranks = Ranks(made, 1.0)
    ranks.prepare(network, torch.optim.AdamW(network.parameters(), lr=0.1))
    for parameter in network.parameters():  # as those of the other processes, added up
        parameter.grad = torch.full_like(parameter, 4.0)
    before = [p.clone() for p in network.parameters()]
    assert float(ranks.commit()) == pytest.approx(3**0.5)  # ones, once they are scaled back
    assert not any(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_launchers_accumulation_does_not_divide_the_loss(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    made = accelerator("cpu", "fp32")
    network = torch.nn.Linear(2, 1)
    ranks = Ranks(made, 1.0)
    call = ranks.prepare(network, torch.optim.AdamW(network.parameters(), lr=0.1))
    ranks.backward(call(torch.ones(1, 2)).sum())
    assert network.bias.grad.tolist() == [1.0]


def test_memory_that_ends_in_the_optimizer_is_told_and_the_epoch_before_is_saved(
    tiny_sets, tmp_path, monkeypatch
):
    commit = Ranks.commit

    def ending(self):
        if done:  # the first epoch is over
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return commit(self)

    done, summarise = [], epochs.summarise

    def summarised(*given):
        done.append(True)
        return summarise(*given)

    monkeypatch.setattr(Ranks, "commit", ending)
    monkeypatch.setattr(epochs, "summarise", summarised)
    sets = [*tiny_sets, "checkpoint.every=100"]
    with pytest.raises(OutOfMemory, match=r"in an optimizer step; .* epoch 1 is saved") as stopped:
        diffrl.train("sdpo", "pickscore", sets=sets, epochs=9, output=tmp_path / "r", live=False)
    assert stopped.value.exit_code == 3
    assert damage(tmp_path / "r/checkpoints/1") is None


@pytest.mark.parametrize(("kind", "said"), [("full", "given up"), ("lora", "epoch 1 is saved")])
def test_memory_that_ends_between_updates_leaves_no_half_epoch(
    kind, said, tiny_sets, tmp_path, monkeypatch
):
    """With adapters the epoch is undone; without copies nothing of it may be saved."""
    steps, plain = [], Ranks.backward

    def backward(self, loss):
        if self.steps > steps[0]:  # an update of this epoch is done
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        plain(self, loss)

    class Arms:
        @hookimpl
        def diffrl_update_done(self, event):
            if event.epoch == 1:
                steps.append(len(commits))  # of the first epoch
                monkeypatch.setattr(Ranks, "backward", backward)

    commits, commit = [], Ranks.commit
    monkeypatch.setattr(Ranks, "commit", lambda self: commits.append(1) or commit(self))
    arms, folder = Arms(), tmp_path / "run"
    registry().register(arms)
    sets = [
        *tiny_sets, f"adapter.kind={kind}", "train.micro_batch=1", "update_scheduler.per_update=2",
    ]  # fmt: skip
    try:
        with pytest.raises(OutOfMemory, match=said):
            diffrl.train("sdpo", "pickscore", sets=sets, epochs=3, output=folder, live=False)
    finally:
        registry().unregister(arms)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["1"]
    assert damage(folder / "checkpoints" / "1") is None


def denoising(self, policy, batch):
    noised, wanted = policy.noise(batch.x0, batch.t)
    return LossOut((policy.predict(noised, batch.t, batch.cond) - wanted).square().mean())


def test_a_schedule_that_ends_without_noise_trains_all_steps_but_that(
    tiny_model, tiny_sets, tmp_path, monkeypatch
):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    file = model / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "timestep_spacing": "linspace"}))
    sets = [*tiny_sets, f"model.ref={model}", "sampler.steps=3", "sampler.lengths=[]"]

    def run(skipped):
        own = [*sets, f"update_scheduler.skip_last={skipped}"]
        folder = tmp_path / str(skipped)
        return diffrl.train("ddpo", "pickscore", sets=own, epochs=1, output=folder, live=False)

    with pytest.raises(SettingsError, match="denoising step 3 of 3, at timestep 0, draws no noise"):
        run(0)
    last = run(1).metrics[-1]
    assert last["updates"] > 0 and "skipped" not in last and last["log_prob_gap/max"] < 1e-4
    monkeypatch.setattr(ClippedRatio, "needs", frozenset({"x0"}))
    monkeypatch.setattr(ClippedRatio, "__call__", denoising)
    shutil.rmtree(tmp_path / "0")
    assert run(0).metrics[-1]["updates"] > 0  # by a loss that reads no density


def test_an_epoch_that_cannot_be_told_is_undone_with_its_memory(tiny_sets, tmp_path, monkeypatch):
    """Returns and samples of an undone epoch would count twice once it is made again."""
    summarise, told = epochs.summarise, []

    def failing(*given):
        told.append(True)
        if len(told) == 2:
            raise ZeroDivisionError("no figure")
        return summarise(*given)

    monkeypatch.setattr(epochs, "summarise", failing)
    folder, sets = tmp_path / "r", [*tiny_sets, "checkpoint.every=100"]
    with pytest.raises(ZeroDivisionError, match="no figure"):
        diffrl.train("sdpo", "pickscore", sets=sets, epochs=2, output=folder, live=False)
    state = checkpoint.read(folder / "checkpoints/1")
    assert state["progress"]["samples"] == diffrl.Run(folder).metrics[1]["samples"]
    assert sum(len(returns) for _, _, returns in state["memory"]) == state["progress"]["samples"]


def test_bad_steps_in_a_row_count_wherever_they_are_in_an_epoch(spoilt, tiny_sets, tmp_path):
    sets = [*tiny_sets, "optimizer.bad_steps=2", "update_scheduler.per_update=1"]
    sets += ["train.micro_batch=64", "sampler.steps=4", "sampler.lengths=[]"]
    spoilt |= {1, 2}  # and the epoch's others are good
    with pytest.raises(Diverged, match="of 2 optimizer steps in a row"):
        diffrl.train("sdpo", "pickscore", sets=sets, epochs=2, output=tmp_path / "r", live=False)
    assert checkpoint.read(tmp_path / "r/checkpoints/1")["watch"]["bad-steps"] == 0

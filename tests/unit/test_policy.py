import pytest
import torch
from peak import Peak
from torch.autograd.graph import saved_tensors_hooks

from diffrl.kernels import Ddim, embedded_scale, log_density, trailing
from diffrl.policy import UNetPolicy
from diffrl.types import Batch, at_step


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory):
    from diffrl.testing.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny"))


def make_policy(folder, guidance=1.0, kind="lora", dtype=torch.float32):
    from diffusers import StableDiffusionPipeline

    from diffrl.adapters import attach_lora, train_all
    from diffrl.pipeline import ddim_schedule, encoder, latent_encoder

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.unet.to(dtype)
    attach_lora(pipeline.unet, 4, 4.0, seed=0) if kind == "lora" else train_all(pipeline.unet)
    return UNetPolicy(
        unet=pipeline.unet,
        call=pipeline.unet,
        encode=encoder(pipeline),
        to_latent=latent_encoder(pipeline.vae, 8 * pipeline.vae_scale_factor),
        scheduler=ddim_schedule(pipeline.scheduler.config),
        size=8,
        guidance=guidance,
    )


@pytest.fixture
def policy(pipeline_folder):
    return make_policy(pipeline_folder)


def batch_from(policy, steps=4, rows=2):
    rng = torch.Generator().manual_seed(0)
    prompts = policy.prompts(["cat", "dog"], group=rows)
    kernel = policy.ddim(steps, 1.0)
    times = policy.timesteps(steps)
    x = policy.normal((4,), rng)
    xs, log_probs = [x], []
    with torch.no_grad():
        for t in times:
            at = t.expand(4)
            step = kernel.transition(policy.predict(x, at, prompts.cond), at, x)
            x = step.mean + step.std * policy.normal((4,), rng)
            log_probs.append(log_density(x, step))
            xs.append(x)
    path = torch.stack(xs, 1).unflatten(0, (2, 2))
    return Batch(
        cond=prompts.cond.unflatten(0, (2, 2)),
        step=torch.arange(steps).expand(2, steps),
        t=times.expand(2, 2, steps),
        x0=path[:, :, -1],
        advantage=torch.zeros(2, 2, steps),
        kernel=kernel,
        x=path[:, :, :-1],
        x_next=path[:, :, 1:],
        log_prob=torch.stack(log_probs, 1).unflatten(0, (2, 2)),
    )


def perturb(policy):
    with torch.no_grad():
        for p in policy.trained.values():
            p.add_(0.05 * torch.randn_like(p))


def test_log_ratio_of_unchanged_weights_is_zero(policy):
    batch = batch_from(policy)
    assert (policy.log_prob(batch) - batch.log_prob).abs().max() < 1e-6


def test_gradient_reaches_live_weights_only(policy):
    batch = batch_from(policy)
    assert not policy.log_prob(batch, "base").requires_grad
    assert not policy.log_prob(batch, "old").requires_grad
    policy.log_prob(batch).sum().backward()
    reached = [n for n, p in policy.trained.items() if p.grad is not None and p.grad.any()]
    assert any("lora_B" in n for n in reached)


def test_log_probs_of_many_steps_and_their_gradients_are_those_of_one_step_each(policy):
    perturb(policy)
    batch = batch_from(policy)
    rise = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(1))
    together = policy.log_prob(batch)
    (together * rise).sum().backward()
    gradients = {n: p.grad.clone() for n, p in policy.trained.items()}
    for p in policy.trained.values():
        p.grad = None
    alone = torch.cat([policy.log_prob(at_step(batch, j)) for j in range(4)], 2)
    (alone * rise).sum().backward()
    assert torch.equal(together, alone)
    for name, p in policy.trained.items():
        assert torch.allclose(gradients[name], p.grad, rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("width", [16, 17])
def test_the_embedding_of_a_guidance_scale_is_that_of_diffusers(width):
    from diffusers import LatentConsistencyModelPipeline as Published

    wanted = Published.get_guidance_scale_embedding(None, torch.tensor([7.0]), width)
    torch.testing.assert_close(embedded_scale(8.0, width), wanted)


def test_a_network_distilled_with_guidance_is_told_the_scale_and_called_once(tmp_path):
    from diffrl.testing.tiny import save_tiny_pipeline

    folder = save_tiny_pipeline(tmp_path, embedded=16)
    calls, outputs = [], []
    for guidance in (1.0, 8.0):
        policy = make_policy(folder, guidance)
        batch, call = batch_from(policy), policy._call
        policy._call = lambda x, t, c, call=call, **o: calls.append(len(x)) or call(x, t, c, **o)
        outputs.append(policy.predict(batch.x[:, :, 0], batch.t[:, :, 0], batch.cond))
    assert calls == [4, 4]
    assert not torch.allclose(*outputs)


@pytest.mark.parametrize("half", [True, False], ids=["half", "fp32"])
def test_conditions_are_rounded_once_for_all_attentions(half, pipeline_folder):
    """The output and the gradients are those of a network that rounds them in each."""
    policy = make_policy(pipeline_folder, dtype=torch.bfloat16 if half else torch.float32)
    unet, given = policy._unet, []
    perturb(policy)

    def call(x, t, cond, **options):
        given.append(cond.dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return unet(x, t, cond, **options)

    policy._call = call
    x, t = torch.randn(4, 4, 8, 8), torch.tensor([999.0, 749.0, 499.0, 249.0])
    cond = policy.prompts(["cat", "dog"], 2).cond
    found = []
    for predict in (policy.predict, lambda *of: call(*of, return_dict=False)[0].float()):
        out = predict(x, t, cond)
        out.square().sum().backward()
        found.append((out.detach(), *(p.grad for p in policy.trained.values())))
        unet.zero_grad(set_to_none=True)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert given == [torch.bfloat16 if half else torch.float32, torch.float32]
    assert any(one.any() for one in found[0][1:])


def test_memory_of_log_probs_does_not_grow_with_the_number_of_steps(policy):
    kept = []
    for steps in (4, 16):
        peak = Peak()
        with saved_tensors_hooks(peak.keep, peak.give):
            policy.log_prob(batch_from(policy, steps)).square().sum().backward()
        kept.append(peak.most)
    assert kept[1] < 1.2 * kept[0]


def test_base_weights_stay_the_loaded_model(policy, pipeline_folder):
    batch = batch_from(policy)
    x, t, cond = batch.x[:, :, 0], batch.t[:, :, 0], batch.cond
    with torch.no_grad():
        before = policy.predict(x, t, cond)
        perturb(policy)
        assert not torch.equal(policy.predict(x, t, cond), before)
    assert torch.equal(policy.predict(x, t, cond, "base"), before)


def test_old_weights_follow_live_at_the_decay_asked_for(policy):
    start = policy.old()
    perturb(policy)
    policy.follow(0.75)
    name = next(iter(start))
    expected = 0.75 * start[name] + 0.25 * policy.trained[name]
    assert torch.allclose(policy.old()[name], expected)
    policy.follow(0.0)
    for name, live in policy.trained.items():
        old = policy.old()[name]
        assert torch.equal(old, live) and old.data_ptr() != live.data_ptr()
        assert old.stride() == live.stride() and not old.requires_grad


def test_replay_returns_the_stored_sample_with_gradient(policy):
    batch = batch_from(policy)
    out = policy.replay(batch)
    assert torch.allclose(out, batch.x0, atol=1e-5)
    out.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in policy.trained.values())


def test_noise_target_undoes_the_noise(policy):
    batch = batch_from(policy)
    noised, target = policy.noise(batch.x0, batch.t)
    flat = Ddim(policy._table, 4).transition(
        target.flatten(0, 2), batch.t.flatten(), noised.flatten(0, 2)
    )
    wanted = batch.x0[:, :, None].expand_as(noised).flatten(0, 2)
    assert torch.allclose(flat.x0_hat, wanted, atol=1e-3)


def test_guidance_mixes_with_the_empty_prompt(pipeline_folder):
    plain, guided = make_policy(pipeline_folder), make_policy(pipeline_folder, guidance=3.0)
    batch = batch_from(plain)
    x, t, cond = batch.x[:, :, 0], batch.t[:, :, 0], batch.cond
    blank = plain.prompts([""]).cond[None].expand_as(cond)
    with torch.no_grad():
        text, none = plain.predict(x, t, cond), plain.predict(x, t, blank)
        assert torch.allclose(guided.predict(x, t, cond), none + 3 * (text - none), atol=1e-5)


def test_full_finetuning_trains_every_weight(pipeline_folder):
    policy = make_policy(pipeline_folder, kind="full")
    batch = batch_from(policy)
    policy.log_prob(batch).sum().backward()
    assert all(p.grad is not None for p in policy.trained.values())


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 12, 50, 61, 103, 122, 998, 1000])
def test_timesteps_are_the_published_trailing_ones(policy, steps):
    assert policy.timesteps(steps).tolist() == trailing(steps)


def test_conditions_of_many_prompts_are_not_kept_for_ever(policy, monkeypatch):
    encoded = []
    monkeypatch.setattr("diffrl.policy.MOST_PROMPTS", 3)
    encode = policy._encode
    monkeypatch.setattr(policy, "_encode", lambda text: encoded.append(*text) or encode(text))
    first = policy.prompts(["", "a", "b"]).cond
    many = policy.prompts(["a", "c", "d", "e"]).cond  # more than are kept, and all there
    assert len(many) == 4 and torch.equal(many[0], first[1])
    assert list(policy._cond) == ["", "c", "d", "e"]
    policy.prompts(["", "d", "e"])
    assert encoded == ["", "a", "b", "c", "d", "e"]
    assert torch.equal(policy.prompts(["a"]).cond[0], first[1])
    assert encoded[-1] == "a"

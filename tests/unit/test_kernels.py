"""What a transition is, apart from the published numbers in `tests/parity`."""

import pytest
import torch

from diffrl.errors import ModelIncomplete
from diffrl.kernels import Ddim, Lcm, leading, log_density, trailing
from diffrl.pipeline import ddim_schedule
from diffrl.types import Transition

TABLE = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


def test_the_last_step_is_noisy():
    for steps in (1, 2, 4, 8, 50):
        x = torch.zeros(1, 1, 1, 1)
        std = Ddim(TABLE, steps).transition(x, torch.tensor([trailing(steps)[-1]]), x).std
        assert 0.028 < float(std) < 0.0293


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_predictions_of_one_kind_of_network_equal_those_of_another(prediction):
    clean, noise = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    t = torch.tensor([999, 500, 20])
    a = TABLE[t].double()[:, None, None, None]
    x = a.sqrt() * clean + (1 - a).sqrt() * noise
    output = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean,
    }[prediction]
    step = Ddim(TABLE, 50, prediction=prediction).transition(output, t, x)
    torch.testing.assert_close(step.x0_hat, clean, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        step.mean, Ddim(TABLE, 50).transition(noise, t, x).mean, rtol=0, atol=1e-11
    )


def test_times_of_every_leading_axis_reach_their_own_rows():
    x = torch.randn(2, 3, 5, 4, 2, 2)
    t = torch.randint(1, 1000, (2, 3, 5))
    whole = Ddim(TABLE, 20).transition(x.tanh(), t, x)
    part = Ddim(TABLE, 20).transition(x[1, 2].tanh(), t[1, 2], x[1, 2])
    assert torch.equal(whole.mean[1, 2], part.mean)
    assert log_density(x, whole).shape == (2, 3, 5)


def test_half_precision_latents_are_computed_in_single_precision():
    x = torch.randn(2, 4, 2, 2).half()
    step = Ddim(TABLE, 50).transition(x, torch.tensor([999, 19]), x)
    assert step.mean.dtype == step.x0_hat.dtype == torch.float32


def test_log_density_is_that_of_a_gaussian_averaged_over_the_latent():
    mean, x = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    std = torch.tensor(0.3, dtype=torch.float64)
    got = log_density(x, Transition(mean, std, mean))
    expected = torch.distributions.Normal(mean, std).log_prob(x).flatten(1).mean(1)
    torch.testing.assert_close(got, expected)


def test_gradient_reaches_the_network_and_not_the_stored_latent():
    x, output, x_next = torch.randn(3, 2, 4, 2, 2).unbind(0)
    output.requires_grad_()
    x_next.requires_grad_()
    log_density(
        x_next, Ddim(TABLE, 5).transition(output, torch.tensor([999, 499]), x)
    ).sum().backward()
    assert x_next.grad is None and output.grad is not None and output.grad.abs().sum() > 0


def test_zero_variance_has_no_finite_density():
    x = torch.randn(1, 4, 2, 2)
    step = Ddim(TABLE, 50).transition(x, torch.tensor([0]), x)
    assert not log_density(step.mean, step).isfinite().any()


def test_timesteps_descend_and_stay_in_the_table():
    for steps in range(1, 101):
        for times in (trailing(steps), leading(steps)):
            assert len(times) == steps and times == sorted(set(times), reverse=True)
            assert 0 <= times[-1] and times[0] <= 999
    assert trailing(4) == [999, 749, 499, 249]


def test_a_model_that_begins_with_noise_alone_has_finite_steps():
    """Where bar-alpha is zero, rounding leaves less than nothing for the predicted noise."""
    alphas = torch.linspace(0.9999, 0.0, 1000)
    for steps in range(2, 60):
        kernel = Ddim(alphas, steps, 1.0, "v_prediction")
        x = torch.randn(2, 4, 8, 8)
        step = kernel.transition(torch.randn(2, 4, 8, 8), torch.tensor([999, 999]), x)
        assert bool(step.mean.isfinite().all()), steps


def test_times_of_a_consistency_model_are_every_stride_th_of_those_it_was_distilled_on():
    for steps in range(1, 51):
        kernel, known = Lcm(TABLE, steps), [20 * j - 1 for j in range(50, 0, -1)]
        wanted = known[:: 50 // steps][:steps]
        assert kernel.times == wanted and len(wanted) == steps
        t, x = torch.tensor(wanted), torch.zeros(steps, 1, 1, 1)
        std = kernel.transition(x, t, x).std.flatten()
        after = torch.tensor([*wanted[1:], wanted[-1]])
        assert torch.equal(std, (1 - TABLE[after]).sqrt())


@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_what_a_scheduler_took_from_its_own_defaults_is_not_replaced_by_those_of_ddim(kind):
    import diffusers

    # As a pipeline settles it: what a hand-written file leaves out stays marked as a default.
    made = getattr(diffusers, kind).from_config({"_class_name": kind})
    made.register_to_config(steps_offset=1, clip_sample=False)
    found, own = ddim_schedule(made.config), made.config
    assert own["_use_default_values"]
    for name in ("clip_sample", "steps_offset", "beta_start", "beta_end", "beta_schedule"):
        assert getattr(found.config, name, None) == own.get(name), name
    found.set_timesteps(4)
    assert 0 not in found.timesteps.tolist()


def test_a_scheduler_of_another_kind_of_prediction_is_refused():
    from diffusers import DDIMScheduler

    made = DDIMScheduler(prediction_type="flow_prediction")
    with pytest.raises(ModelIncomplete, match=r"'flow_prediction'; expected epsilon, sample"):
        ddim_schedule(made.config)

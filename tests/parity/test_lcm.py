"""The LCM step against that of RLCM: schedules, next states, log-densities and gradients."""

import pytest
import torch
from pack import unpack

from diffrl.kernels import Lcm, Transition, log_density

SCHEDULE = unpack("schedules")
LCM = unpack("rlcm_lcm_step")
TABLE = torch.tensor(SCHEDULE["alphas_cumprod_float32"]).float()


@pytest.mark.parametrize("steps", sorted(LCM["schedules"], key=int))
def test_timesteps_are_the_published_ones(steps):
    assert Lcm(TABLE, int(steps)).times == LCM["schedules"][steps]["timesteps"].tolist()


@pytest.mark.parametrize("case", LCM["cases"], ids=lambda c: c["name"])
def test_step_log_density_and_gradient_equal_the_published_ones(case):
    kernel = Lcm(TABLE.double(), int(case["num_inference_steps"]), case["prediction_type"])
    x, output, noise, given = (
        torch.tensor(case[n]).double() for n in ("sample", "model_output", "noise", "given_prev")
    )
    output.requires_grad_()
    step = kernel.transition(output, torch.full((len(x),), int(case["timestep"])), x)
    step = as_rounded_there(step, torch.tensor(case["denoised"]).double())
    close(step.x0_hat, case["denoised"])
    log_prob = log_density(given, step)
    close(log_prob, case["given_log_prob"], rtol=1e-9, atol=1e-7)
    (grad,) = torch.autograd.grad(log_prob.sum(), output)
    close(grad, case["grad_sum_given_log_prob_wrt_model_output"])
    if kernel.steps > 1:  # one step is refused by the sampler: it draws no noise
        drawn = step.mean + step.std * noise
        close(drawn, case["sampled_prev"])
        close(log_density(drawn, step), case["sampled_log_prob"], rtol=1e-9, atol=1e-7)


def as_rounded_there(step, published):
    """A step with the published machine's c_out: float32, whose last digit may be rounded apart."""
    rounding = (published / step.x0_hat.detach()).median()
    assert abs(rounding - 1) <= 2**-24 * (1 + 1e-6)
    return Transition(step.mean * rounding, step.std, step.x0_hat * rounding)


def close(got, expected, rtol=1e-9, atol=1e-10):
    torch.testing.assert_close(
        got.detach(), torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol
    )

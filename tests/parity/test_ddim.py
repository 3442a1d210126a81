"""The kernel against the published DDIM step, and the sampler against published trajectories."""

import dataclasses

import pytest
import torch
from pack import unpack

from diffrl.builtin.samplers import Ddim as DdimSampler
from diffrl.kernels import Ddim, leading, log_density, trailing
from diffrl.stages import Policy
from diffrl.types import Advantages, Minibatch, Prompts, gather

SCHEDULES = unpack("schedules")
TABLE = torch.tensor(SCHEDULES["alphas_cumprod_float32"], dtype=torch.float32)
CASES = {c["name"]: c for c in unpack("ddim_step_with_logprob")["cases"]}
TRAJECTORIES = {c["name"]: c for c in unpack("sdpo_pipeline_trajectories")["cases"]}
SECOND = "_second_trajectory_same_initial_noise"
# log-densities: 2e-8 from a float32 constant in float64; rounding of sums of squares below that
TOLERANCE = {
    "float64": {"rtol": 1e-9, "atol": 1e-12},
    "float32": {"rtol": 2e-6, "atol": 2e-6},
    "float16": {"rtol": 1e-3, "atol": 1e-3},  # one rounding; log-densities are float32
}


@pytest.mark.parametrize("key", SCHEDULES["tables"])
def test_timesteps_and_deviations_equal_the_published_tables(key):
    table = SCHEDULES["tables"][key]
    steps, spacing = table["T"], table["spacing"]
    ours = trailing(steps) if spacing == "trailing" else leading(steps, offset=1)
    assert ours == table["timesteps"].tolist()
    x = torch.zeros(steps, 1, 1, 1, dtype=torch.float64)
    std = Ddim(TABLE, steps).transition(x, torch.tensor(ours), x).std.flatten()
    close(std, table["std_eta1"], rtol=1e-12, atol=0)
    close(std**2, table["variance"], rtol=1e-12, atol=0)
    landed = torch.tensor([max(t - 1000 // steps, 0) for t in ours])
    assert landed.tolist() == table["prev_timesteps"].tolist()
    shifted = Ddim(TABLE, steps, eta=0.0).transition(x, torch.tensor(ours), x + 1).mean.flatten()
    expected = (TABLE[landed].double() / TABLE[torch.tensor(ours)].double()).sqrt()
    close(shifted, expected.numpy(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_a_step_equals_the_published_step(name):
    case = CASES[name]
    dtype = getattr(torch, case["precision"])
    x, output = (torch.tensor(case[k], dtype=dtype) for k in ("sample", "model_output"))
    step = kernel_of(case).transition(output, torch.as_tensor(case["timestep"]), x)
    bound = TOLERANCE[case["precision"]]
    if "variance_noise" in case:
        x_next = step.mean + step.std * torch.tensor(case["variance_noise"], dtype=dtype)
        close(x_next.to(dtype), case["prev_sample_output"], **bound)
    else:
        x_next = torch.tensor(case["prev_sample_input"], dtype=dtype)
    if "pred_original_sample" in case:
        close(step.x0_hat.to(dtype), case["pred_original_sample"], **bound)
    got, expected = log_density(x_next, step), torch.as_tensor(case["log_prob"])
    assert torch.equal(got.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    atol = 1e-7 if case["precision"] == "float64" else 2e-6
    close(got[finite], expected[finite].numpy(), rtol=min(atol, bound["rtol"]), atol=atol)


def test_gradient_of_log_density_equals_the_published_one():
    case = CASES["gradient_T50_eta1"]
    output = torch.tensor(case["model_output"], requires_grad=True)
    step = kernel_of(case).transition(
        output, torch.as_tensor(case["timestep"]), torch.tensor(case["sample"])
    )
    log_density(torch.tensor(case["prev_sample_input"]), step).sum().backward()
    close(output.grad, case["grad_sum_log_prob_wrt_model_output"], rtol=1e-9, atol=1e-15)


def test_rounding_stored_latents_to_half_precision_moves_log_density_as_published():
    case = CASES["float16_T50_sampled_eta1"]
    x, output = (torch.tensor(case[k]).half() for k in ("sample", "model_output"))
    step = kernel_of(case).transition(output, torch.as_tensor(case["timestep"]), x)
    stored = torch.tensor(case["prev_sample_output"]).half()
    close(
        log_density(stored, step),
        case["log_prob_reevaluated_from_stored_fp16_prev_sample"],
        rtol=0,
        atol=2e-6,
    )


class Replay(Policy):
    """A policy whose network output and noise are those of two published trajectories."""

    def __init__(self, first, second):
        self.outputs, self.start, self.noise = [], torch.tensor(first["latents"][:, 0]), []
        self.seen, steps = [], first["T"]
        self.times = torch.tensor(first["timesteps"], dtype=torch.float32)
        for k in range(steps):
            self.outputs.append(twins(first["model_outputs"][:, k], second["model_outputs"][:, k]))
            a, std = TABLE.double()[max(int(self.times[k]) - 1000 // steps, 0)], deviation(steps, k)
            clean = twins(first["pred_x0"][:, k], second["pred_x0"][:, k])
            mean = a.sqrt() * clean + (1 - a - std**2).sqrt() * self.outputs[k]
            after = twins(first["latents"][:, k + 1], second["latents"][:, k + 1])
            self.noise.append((after - mean) / std)

    def prompts(self, text, group=1):
        rows = tuple(t for t in text for _ in range(group))
        number = torch.arange(len(text)).repeat_interleave(group)
        return Prompts(rows, number, torch.zeros(len(rows), 1))

    def timesteps(self, steps):
        assert steps == len(self.times)
        return self.times

    def ddim(self, steps, eta):
        return Ddim(TABLE, steps, eta)

    def normal(self, shape, rng):
        if not self.seen:
            assert tuple(shape) == (3,)
            return self.start
        return self.noise[len(self.seen) - 1]

    def predict(self, x, t, cond, weights="live"):
        assert t.tolist() == [float(self.times[len(self.seen)])] * len(x)
        self.seen.append(x)
        return self.outputs[len(self.seen) - 1]


@pytest.fixture(params=[n for n in TRAJECTORIES if not n.endswith(SECOND)])
def pair(request):
    first, second = TRAJECTORIES[request.param], TRAJECTORIES[request.param + SECOND]
    sampler = DdimSampler(steps=first["T"], group=2, share_noise=True)
    return first, second, sampler(Replay(first, second), ("a", "b", "c"), torch.Generator())


def test_sampler_equals_the_published_trajectories(pair):
    first, second, rollout = pair
    path = rollout.path
    close(path.x, twins(first["latents"], second["latents"]).numpy())
    close(path.x0_hat, twins(first["pred_x0"], second["pred_x0"]).numpy())
    close(path.log_prob, twins(first["log_probs"], second["log_probs"]).numpy(), atol=1e-7)
    assert torch.equal(rollout.x0, path.x[:, -1])


def test_replay_of_stored_transitions_gives_the_published_log_densities(pair):
    first, second, rollout = pair
    steps = first["T"]
    order = torch.stack([torch.randperm(steps) for _ in range(3)])
    rows = torch.tensor([[4, 5], [0, 1], [2, 3]])
    batch = gather(rollout, Advantages(torch.zeros(6, steps)), Minibatch(rows, order))
    output = twins(first["model_outputs"], second["model_outputs"])[
        rows[:, :, None], order[:, None]
    ]
    got = log_density(batch.x_next, batch.kernel.transition(output, batch.t, batch.x))
    expected = twins(first["log_probs"], second["log_probs"])[rows[:, :, None], order[:, None]]
    close(got, expected.numpy(), atol=1e-7)
    close(got, batch.log_prob.numpy())


def kernel_of(case):
    clip = case.get("clip_sample_range", 1.0) if case["clip_sample"] else None
    kernel = Ddim(TABLE, case["T"], case["eta"], case["prediction_type"], clip)
    return dataclasses.replace(kernel, rederive=case.get("use_clipped_model_output", False))


def deviation(steps, k):
    return SCHEDULES["tables"][f"trailing_T{steps}"]["std_eta1"][k]


def twins(first, second):
    """Return rows of two trajectories side by side, as the sampler has them."""
    return torch.stack([torch.tensor(first), torch.tensor(second)], 1).flatten(0, 1)


def close(got, expected, rtol=1e-9, atol=1e-11):
    expected = torch.as_tensor(expected)
    torch.testing.assert_close(got.to(expected.dtype), expected, rtol=rtol, atol=atol)

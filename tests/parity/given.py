"""What the parity tests of losses share."""

import torch

from diffrl.stages import Policy


class GivenPolicy(Policy):
    """A policy whose log-densities are given, for the live weights and for the base."""

    def __init__(self, live, base=None):
        self.given = {"live": live, "base": base}

    def log_prob(self, batch, weights="live"):
        return self.given[weights]


def close(got, expected, rtol=1e-9, atol=1e-12):
    torch.testing.assert_close(
        got.detach(), torch.as_tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol
    )

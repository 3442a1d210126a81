"""The loss passes the contract that diffrl has for losses."""

import pytest
from diffrl_rwr import WeightedDenoising

from diffrl.testing.contracts import LossContract


class TestWeightedDenoising(LossContract):
    """Inherits every test."""

    @pytest.fixture
    def component(self) -> WeightedDenoising:
        """Return the loss under test."""
        return WeightedDenoising()

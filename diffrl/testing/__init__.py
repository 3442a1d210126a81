"""What a plugin's own tests need: a toy world, a minimal training loop and contract suites.

    from diffrl.testing.contracts import LossContract

    class TestWeightedDenoising(LossContract):
        @pytest.fixture
        def component(self):
            return WeightedDenoising()

Nothing here needs weights, a network or a GPU. `contracts` needs pytest, which
`pip install diffrl[test]` brings.
"""

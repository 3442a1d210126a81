"""How the fuzz tests draw: the same inputs every time, nothing kept between runs."""

import warnings

from hypothesis import HealthCheck, Phase, given, settings

from diffrl.registry import registry

PROFILE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


def fuzz(examples, strategy, check):
    """Call `check` with that many draws of a strategy."""
    registry()  # what it imports may draw numbers of its own

    def each(drawn):
        check(drawn)

    with warnings.catch_warnings():  # beartype picks at random which items it checks
        warnings.filterwarnings("ignore", "Do not use the `random` module inside strategies")
        settings(PROFILE, max_examples=examples)(given(strategy)(each))()

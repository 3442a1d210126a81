"""How the fuzz tests draw: the same inputs every time, nothing kept between runs."""

import contextlib
import io
import warnings
from dataclasses import dataclass

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
        warnings.filterwarnings("ignore", "Generating overly large repr")
        warnings.filterwarnings("ignore", "Do not use the `random` module inside strategies")
        settings(PROFILE, max_examples=examples)(given(strategy)(each))()


@dataclass
class Told:
    """What a command said."""

    code: int
    out: str
    err: str


def quietly(*words):
    """Run a command in this process; whatever it refuses, it refuses in plain lines."""
    from diffrl.cli import main

    out, err = io.StringIO(), io.StringIO()
    code = None
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            main([str(word) for word in words])
        except SystemExit as stopped:
            code = stopped.code or 0
    told = Told(code, out.getvalue(), err.getvalue())
    assert code in (0, 2), told
    assert (code == 2) == told.err.startswith("error: "), told
    assert all(c.isprintable() or c == "\n" for c in told.err), told
    return told

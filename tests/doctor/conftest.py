"""A run at toy size, built as a run builds it; and the doctor's checks, one at a time."""

import pytest

from diffrl.doctor.checks import CHECKS
from diffrl.doctor.rehearsal import rehearse
from diffrl.doctor.weights import kept
from diffrl.settings.resolve import resolve
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.session import build


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    from diffrl.testing.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def tiny_sets(tiny_model):
    return [
        f"model.ref={tiny_model}",
        "model.device=cpu",
        "train.trajectories=8",
        "train.sample_batch=8",
        "train.micro_batch=3",
        "eval.images=2",
        "eval.shown=2",
        "eval.steps=[1]",
        "eval.every=0",
        "eval.watch=[]",
        "checkpoint.every=1",
        "optimizer.lr=1e-2",
        "sampler.lengths=[]",
        "sampler.steps=4",
    ]


@pytest.fixture
def session_of(tiny_sets, tmp_path):
    """Builds a session of the tiny pipeline, with more settings."""

    def made(*sets, algo="sdpo", reward="jpeg-compressibility"):
        settings = resolve(algo, [reward], sets=[*tiny_sets, *sets])
        prompts = preflight(settings, None)
        model = settings.model
        return build(settings, accelerator(model.device, model.precision), tmp_path, prompts)

    return made


@pytest.fixture
def look():
    """Returns what one check finds in a session."""

    def found(session, check, given=None):
        with kept(session):
            rehearsal = rehearse(session, given)
            return CHECKS[check](session, rehearsal)

    return found


@pytest.fixture
def verdict(look):
    """Returns the one finding of a check."""

    def one(session, check):
        (finding,) = look(session, check)
        return finding

    return one

import pytest

from diffrl.trainer import train


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    from diffrl.testing.tiny import save_tiny_pipeline

    return save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    from diffrl.testing.tiny import save_tiny_clip

    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_sets(tiny_model, tiny_clip):
    return [
        f"model.ref={tiny_model}",
        f"rewards.pickscore.checkpoint={tiny_clip}",
        "train.trajectories=8",
        "train.micro_batch=3",
        "eval.images=3",
        "eval.shown=2",
        "eval.steps=[1, 2]",
        "eval.every=2",
        "eval.watch=[]",
        "checkpoint.every=1",
        "optimizer.lr=1e-2",
    ]


@pytest.fixture(scope="session")
def tiny_run(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "whole"
    return train("sdpo", "pickscore", sets=tiny_sets, epochs=4, output=folder, live=False)

import pytest

from .harness import Zygote, whole


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def sets(tmp_path_factory):
    """Small settings in which every part of a run happens more than once."""
    from diffrl.testing.tiny import save_tiny_clip, save_tiny_pipeline

    model = save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    clip = save_tiny_clip(tmp_path_factory.mktemp("clip"))
    chosen = [
        f"model.ref={model}", f"rewards.pickscore.checkpoint={clip}", "train.trajectories=8",
        "train.sample_batch=4", "train.micro_batch=3", "train.epochs=5", "eval.images=4",
        "eval.shown=2", "eval.steps=[1, 2]", "eval.every=2", "eval.watch=[]", "checkpoint.every=2",
        "checkpoint.keep=2", "optimizer.lr=1e-2",
    ]  # fmt: skip
    return [word for one in chosen for word in ("--set", one)]


def without(words, beginning):
    """Return `--set` words less those of one key."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [w for pair in pairs if not pair[1].startswith(beginning) for w in pair]


@pytest.fixture(scope="session")
def reference(zygote, sets, tmp_path_factory):
    """Returns the whole run of an algorithm, made once."""
    made = {}

    def of(algo, reward="pickscore"):
        if (algo, reward) not in made:
            own = sets if reward == "pickscore" else without(sets, "rewards.pickscore")
            argv = ["train", "--algo", algo, "--reward", reward, *own]
            folder = tmp_path_factory.mktemp("whole") / "run"
            made[algo, reward] = whole(zygote, argv, folder)
        return made[algo, reward]

    return of

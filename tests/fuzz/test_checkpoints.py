"""Whatever a checkpoint's files hold, it is taken whole or refused by name.

Each tier damages every kind of file: the default 150 checkpoints, the slow one 4,000.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from fuzz_files import files
from fuzzing import fuzz
from hypothesis import strategies as st

import diffrl
from diffrl import shelf
from diffrl.errors import ResumeError
from diffrl.settings.resolve import load
from diffrl.testing.tiny import save_tiny_pipeline
from diffrl.trainer import checkpoint
from diffrl.trainer.preflight import preflight
from diffrl.trainer.ranks import accelerator
from diffrl.trainer.session import build

TIERS = [pytest.param(75, id="some"), pytest.param(2000, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    sets = [
        f"model.ref={model}", "train.trajectories=4", "eval.images=2", "eval.shown=1",
        "eval.steps=[1]", "eval.watch=[]", "sampler.steps=2", "sampler.group=2",
        "checkpoint.every=1", "train.track=[]", "adapter.rank=1",
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "run"
    diffrl.train("sdpo", "jpeg-compressibility", sets=sets, epochs=2, output=folder, live=False)
    return folder


@pytest.fixture(scope="module")
def session(run, tmp_path_factory):
    """What a checkpoint is loaded into."""
    settings = load(run / "settings.toml")
    prompts = preflight(settings, None)
    return build(settings, accelerator("cpu", "fp32"), tmp_path_factory.mktemp("s"), prompts)


@pytest.mark.parametrize("examples", TIERS)
def test_a_checkpoint_with_other_bytes_is_refused_by_name(run, examples):
    last = run / "checkpoints" / "2"
    whole = {p.name: p.read_bytes() for p in last.iterdir()}
    any_file = st.sampled_from(sorted(whole))
    drawn = any_file.flatmap(lambda name: st.tuples(st.just(name), files(whole[name])))
    seen = Counter()

    def check(pair):
        name, content = pair
        (last / name).write_bytes(content)
        try:
            if content == whole[name]:
                assert shelf.chosen(run, None) == last
                seen["whole"] += 1
                return
            with pytest.raises(ResumeError) as refused:
                shelf.chosen(run, None)
            said = str(refused.value)
            assert name in said and f"{last} is damaged" in said, said
            assert f"diffrl train --resume {run}@1" in said, said
            seen["refused"] += 1
        finally:
            (last / name).write_bytes(whole[name])

    fuzz(examples, drawn, check)
    assert seen["refused"] >= 0.9 * examples
    print(seen)


@pytest.mark.parametrize("examples", TIERS)
def test_a_sealed_checkpoint_of_nonsense_is_refused_without_a_traceback(run, session, examples):
    """As somebody who knows how to seal one might make it."""
    last = run / "checkpoints" / "2"
    names = ("trainer_state.json", "trainer_state.safetensors")
    whole = {name: (last / name).read_bytes() for name in names}
    tree = json.loads(whole[names[0]])
    kinds = {names[0]: files(whole[names[0]], tree), names[1]: files(whole[names[1]])}
    drawn = st.sampled_from([*names[:1] * 4, names[1]]).flatmap(
        lambda name: st.tuples(st.just(name), kinds[name])
    )
    seen = Counter()

    def check(pair):
        name, content = pair
        (last / name).write_bytes(content)
        shelf.seal(last)
        try:
            checkpoint.load(last, session.policy, session.ranks, session.rng)
            seen["read"] += 1
        except ResumeError as error:
            assert str(last) in str(error)
            assert all(c.isprintable() for c in str(error)), str(error)
            seen["refused"] += 1
        finally:
            (last / name).write_bytes(whole[name])
            shelf.seal(last)

    fuzz(examples, drawn, check)
    assert seen["refused"] >= 0.3 * examples
    print(seen)


def test_a_seal_cannot_name_files_elsewhere(run):
    last = run / "checkpoints" / "2"
    before = (last / shelf.SUMS).read_text()
    try:
        for name in ("../1/settings.toml", str(Path(run / "settings.toml").resolve())):
            (last / shelf.SUMS).write_text(f"{before}{'0' * 64}  {name}\n")
            assert "which is not in that folder" in (shelf.damage(last) or "")
    finally:
        (last / shelf.SUMS).write_text(before)

"""Anything wrong in the settings is one line that names it and exit code 2, and writes nothing.

The default tier draws 250, the slow one 2,500 (`pytest tests/fuzz -m slow -s` prints the counts).
"""

from collections import Counter

import pytest
import tomli_w
from fuzz_wrong import WRONG
from fuzzing import fuzz, quietly

from diffrl.errors import one_line

TIERS = [pytest.param(250, id="some"), pytest.param(2500, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", TIERS)
def test_what_is_wrong_is_named_and_refused(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    seen = Counter()

    def check(wrong):
        words = ["train", "--algo", wrong.algo, "--reward", wrong.reward, "--dry-run", *wrong.argv]
        if wrong.config:
            (tmp_path / "config.toml").write_text(tomli_w.dumps(wrong.config), encoding="utf-8")
            words += ["--config", "config.toml"]
        told = quietly(*words)
        assert told.code == 2
        names = [text for name in wrong.named for text in as_told(name)]
        assert any(name in told.err for name in names), (wrong.named, told)
        assert {path.name for path in tmp_path.iterdir()} <= {"config.toml"}
        seen["refused"] += 1

    fuzz(examples, WRONG, check)
    print(dict(seen))
    assert seen["refused"] >= examples


def as_told(text):
    """Return how messages write a text that may hold anything: as a key, or as a value."""
    return {one_line(text)[:150], repr(text)[1:150].rstrip("'\"\\")}

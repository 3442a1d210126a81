"""Prompts, preferences, configurations and cards of any content are read, or refused by name.

The default tier draws 100 of each, the slow one 2,000. Odd prompts that can be read also train.
"""

import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from fuzz_files import JSON, files
from fuzzing import fuzz, quietly
from hypothesis import strategies as st

import diffrl
from diffrl import preferences
from diffrl.errors import DiffrlError
from diffrl.evidence.reproduce import HERE, card, settings_of
from diffrl.settings.resolve import resolve
from diffrl.testing.tiny import save_tiny_pipeline
from diffrl.trainer.opening import open_prompts

TIERS = [pytest.param(100, id="some"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
READABLE = [
    "a fox", "ünïcödé ключ 狐狸", "\u202ea fox\u202c backwards", "\u200fثعلب\u200f", "e\u0301",
    "\U0001f98a\u200d\U0001f525", "<b>&\"'", "a\tb", "</script><script>alert(1)</script>",
    "$x^$ {{ 1 }} %s \\n", "x" * 10_000, "fox " * 2499 + "fox",
]  # fmt: skip
REFUSED = ["a\x00b", "a\x1b[31mred", "a\x07b", "a\x85b", "a\x0bb", "a\x7fb"]
LINES = st.lists(
    st.one_of(st.sampled_from([*READABLE, *REFUSED, "", " ", "\ufeff"]), st.text(max_size=9)),
    max_size=6,
)
ENDS = st.sampled_from(["\n", "\r\n", "\n\n"])
TEXTS = st.builds(
    lambda mark, end, lines: mark + end.join(lines).encode("utf-8", "surrogatepass"),
    st.sampled_from([b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"]), ENDS, LINES,
)  # fmt: skip


@pytest.fixture
def read(tmp_path):
    """Write content into a file, call a reader, and return what it gives or its message."""

    def run(name, content, reader):
        path = tmp_path / name
        path.write_bytes(content)
        try:
            return reader(str(path)), None
        except DiffrlError as error:
            assert error.exit_code == 2 and name in str(error), error
            return None, str(error)

    return run


@pytest.mark.parametrize("examples", TIERS)
def test_prompts_are_read_or_refused_with_file_and_line(examples, read):
    seen = Counter()

    def check(content):
        prompts, message = read("mine.txt", content, open_prompts)
        seen["read" if prompts else "refused"] += 1
        if prompts:
            assert all(p == p.strip() and p and "\n" not in p for p in prompts)
            assert not any(preferences.control_characters(p) for p in prompts)
            assert not any("\ufeff" in p for p in prompts)
        elif "control character" in message:
            number = int(re.search(r"line (\d+): holds", message)[1])
            text = io.TextIOWrapper(io.BytesIO(content), "utf-8").read()  # which ends lines alike
            assert preferences.control_characters(text.split("\n")[number - 1])

    fuzz(examples, st.one_of(TEXTS, TEXTS, files(b"cat\ndog\na red fox\n")), check)
    print(dict(seen))
    assert sum(seen.values()) >= examples and min(seen.values()) > examples / 20


@pytest.mark.parametrize("examples", TIERS)
def test_preferences_are_read_or_refused_with_their_line(examples, read, tmp_path):
    from PIL import Image

    seen = Counter()
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    row = {"prompt": "a fox", "images": ["a.png", "b.png"], "choice": 0}
    whole = (json.dumps(row) + "\n").encode()
    prompts = st.text(max_size=5).map(lambda text: {**row, "prompt": text})
    rows = prompts.map(lambda one: whole + json.dumps(one).encode())

    def check(content):
        pairs, _ = read("mine.jsonl", content, preferences.read)
        seen["read" if pairs else "refused"] += 1

    fuzz(examples, st.one_of(rows, files(whole * 2, row)), check)
    print(dict(seen))
    assert seen["read"] and seen["refused"] >= examples / 2


CONFIG = b"""# mine
[sampler]
steps = 4 # few
eta = 0.5
[loss]
name = "reward-difference"
clip = 1e-4
[rewards.pickscore]
weight = 2.0
[train]
prompts = "animals"
track = ["tensorboard"]
"""


@pytest.mark.parametrize("examples", TIERS)
def test_configurations_are_read_or_refused_by_name(examples, read):
    seen = Counter()

    def check(content):
        found, _ = read(
            "mine.toml", content, lambda path: resolve("sdpo", ["pickscore"], config=Path(path))
        )
        seen["read" if found else "refused"] += 1

    fuzz(examples, files(CONFIG), check)
    print(dict(seen))
    assert seen["read"] and seen["refused"] >= examples / 2


@pytest.mark.parametrize("examples", TIERS)
def test_mappings_of_any_shape_are_read_or_refused(examples):
    keys = st.one_of(
        st.sampled_from(["sampler", "loss", "rewards", "train", "eval", "algo", "steps", "name"]),
        st.sampled_from(["pickscore", "weight", "watch", "lengths", "group", "preset", "clip"]),
        st.text(max_size=4),
    )
    trees = st.recursive(
        JSON,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner)),
        max_leaves=9,
    )
    seen = Counter()

    def check(content):
        try:
            resolve("sdpo", ["pickscore"], config=content)
            seen["read"] += 1
        except DiffrlError as error:
            seen["refused"] += 1
            assert error.exit_code == 2

    fuzz(examples, st.dictionaries(keys, trees, max_size=4), check)
    print(dict(seen))
    assert seen["read"] and seen["refused"] >= examples / 2


@pytest.mark.parametrize("examples", TIERS)
def test_cards_are_read_or_refused_by_name(examples, read):
    seen = Counter()

    def check(content):
        found, _ = read("mine.toml", content, card)
        seen["read" if found else "refused"] += 1
        if found:
            for seed in found.seeds[:2]:
                try:
                    assert settings_of(found, seed)
                except DiffrlError as error:
                    assert error.exit_code == 2

    whole = min(HERE.glob("*.toml"), key=lambda path: path.stat().st_size).read_bytes()
    fuzz(examples, files(whole), check)
    print(dict(seen))
    assert seen["read"] and seen["refused"] >= examples / 2


@pytest.mark.parametrize(
    "name", ["a" * 5000, "a" * 300, "\x00", "~nobody-of-that-name/x", "a\nb", "\udcff", "\x1b[31m"]
)
def test_names_that_no_file_can_have_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    train = ["train", "--algo", "sdpo", "--reward", "pickscore"]
    options = ["--prompts", "--preferences", "--config", "--resume"]
    cases = [[*train, "--prompts", "nothing.txt", option, name] for option in options]
    cases += [[*train, "--prompts", "nothing.txt", "--output", f"{name}/x"]]
    cases += [[*train, "--model", f"./{name}", "--prompts", "nothing.txt"]]
    cases += [["report", name], ["compare", name, name], ["reproduce", f"{name}.toml"]]
    for words in cases:
        assert quietly(*words).code == 2
    assert not any(tmp_path.iterdir())


def test_odd_prompts_train_and_their_report_escapes_everything(tmp_path):
    model = save_tiny_pipeline(tmp_path / "pipeline")
    folder, prompts = tmp_path / "<b>&'run'", tmp_path / '<i>🦊 & "mine".txt'
    prompts.write_text("\ufeff" + "\n\n".join(READABLE) + "\n", encoding="utf-8")
    sets = [
        f"model.ref={model}", "train.trajectories=12", "eval.images=12", "eval.shown=12",
        "eval.steps=[1]", "eval.watch=[]", "sampler.steps=2",
    ]  # fmt: skip
    run = diffrl.train(
        "sdpo", "jpeg-compressibility", prompts=prompts, sets=sets, epochs=1, output=folder,
        live=False,
    )  # fmt: skip
    assert [line["epoch"] for line in run.metrics] == [0, 1]
    record = json.loads((folder / "evaluations/00001.json").read_text("utf-8"))
    assert record["prompts"] == READABLE
    page = run.report().read_text("utf-8")
    for raw in ("<i>🦊", "<b>&'run'", "alert(1)"):
        assert raw not in page
    assert "&lt;i&gt;🦊 &amp; " in page

"""Whatever the files of a run hold, report and compare show what they can and say what they cannot.

The default tier damages one 50 times and draws the plots of 3, the slow one 2,000 times.
"""

import json
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
from fuzz_files import files
from fuzzing import fuzz, quietly
from hypothesis import strategies as st

import diffrl
from diffrl import Run
from diffrl.errors import DiffrlError
from diffrl.evidence.compare import answers, contender
from diffrl.folder import NOTICES, read_lines
from diffrl.settings.resolve import load
from diffrl.testing.tiny import save_tiny_pipeline

TIERS = [pytest.param(50, id="some"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
READ = ["settings.toml", "metrics.jsonl", "notices.jsonl", "environment.json", "evaluation.json"]
EVALUATED = {
    "format": 1,
    "own": "run",
    "protocol": {"prompts": {"animals": ["cat", "dog"]}, "seeds": 1, "steps": [1]},
    "rewards": {"jpeg-compressibility": {"quality": 95}},
    "lower_is_better": [],
    "subjects": {"run": {"epoch": 1}},
    "cells": [
        {
            "subject": "run", "prompts": "animals", "steps": 1,
            "values": {"jpeg-compressibility": [1.0, None]}, "by_prompt": {},
            "found": {"jpeg-compressibility": {"mean": 1.0, "low": 0.5, "high": 1.5}},
            "wins": {"jpeg-compressibility": {"mean": 50.0}},
        }
    ],
}  # fmt: skip
NOTICE = '{"epoch": 1, "kind": "check", "name": "gap", "message": "x"}\n'


@pytest.fixture(scope="module")
def tiny_sets(tmp_path_factory):
    model = save_tiny_pipeline(tmp_path_factory.mktemp("pipeline"))
    return [
        f"model.ref={model}", "train.trajectories=4", "eval.images=6", "eval.shown=1",
        "eval.steps=[1]", "eval.watch=[]", "sampler.steps=2", "sampler.group=2",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    diffrl.train(
        "sdpo", "jpeg-compressibility", sets=tiny_sets, epochs=1, output=folder, live=False
    )
    (folder / "evaluation.json").write_text(json.dumps(EVALUATED))
    (folder / "notices.jsonl").write_text(NOTICE)
    return folder


def contents(folder):
    """Return a strategy of a file of the run and something else in its place."""
    names = [*READ, *(str(p.relative_to(folder)) for p in (folder / "evaluations").iterdir())]
    names += [str(p.relative_to(folder)) for p in (folder / "images").glob("*.png")]
    kinds = []
    for name in names:
        whole = (folder / name).read_bytes()
        lines = [json.loads(x) for x in whole.splitlines()] if name.endswith("l.jsonl") else None
        tree = json.loads(whole) if name.endswith(".json") else lines
        kinds.append(st.tuples(st.just(name), files(whole, tree)))
    return st.one_of(kinds)


def lines_of(name, content):
    """Return JSON lines where one tree stands for several."""
    if name.endswith("l.jsonl"):
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return content
        if isinstance(found, list):
            return b"\n".join(json.dumps(one).encode() for one in found)
    return content


DRAWN = pytest.param(3, True, id="with plots")
UNDRAWN = [pytest.param(*tier.values, False, id=tier.id, marks=tier.marks) for tier in TIERS]


@pytest.mark.parametrize(("examples", "plots"), [DRAWN, *UNDRAWN])
def test_a_damaged_file_of_a_run_is_shown_or_named(examples, plots, run, tmp_path, monkeypatch):
    if not plots:  # which take a second a page
        monkeypatch.setattr("diffrl.report.charts.save", lambda made, folder: ["<svg/>"])
    copy, seen = tmp_path / "copy", Counter()
    page = copy / "report.html"

    def check(drawn):
        name, content = drawn
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "plots", "*.pt"))
        (copy / "checkpoints/00001").mkdir(parents=True)
        (copy / name).write_bytes(lines_of(name, content))
        told = quietly("report", copy)
        seen[f"report exits {told.code}"] += 1
        assert page.exists() == ("report: " in told.out)
        assert_valid(page.read_text("utf-8") if page.exists() else "")
        assert_readable(Run(copy))
        seen[f"compare exits {quietly('compare', run, copy).code}"] += 1
        seen["files"] += 1

    fuzz(examples, contents(run), check)
    print(dict(seen))
    assert seen["files"] >= examples


def assert_readable(run):
    """Assert that all of a run is there, or refused with a message."""
    assert all(isinstance(line["epoch"], int) for line in run.metrics)
    assert all(isinstance(line, dict) for line in read_lines(run.folder / NOTICES))
    assert run._repr_html_()
    assert run.pictures and run.checkpoints
    for read in (lambda: load(run.folder / "settings.toml"), lambda: run.settings):
        try:
            read()
        except DiffrlError as error:
            assert "settings.toml" in str(error) or "settings" in str(error)
    try:
        answers(contender(str(run.folder)), 1)
    except DiffrlError as error:
        assert str(error)


class Tags(HTMLParser):
    """Counts what a page opens and does not close."""

    VOID = frozenset({"meta", "link", "input", "img", "br", "!doctype"})

    def __init__(self):
        super().__init__()
        self.open, self.scripts = [], 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """SVG closes its own."""

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag


def assert_valid(text):
    """Assert that all tags of a page are closed in order, and no other script is in it."""
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert tags.scripts == bool(text)


@pytest.mark.parametrize("examples", TIERS)
def test_damaged_saved_settings_are_refused_on_resume(examples, run, tmp_path):
    copy, seen = tmp_path / "copy", Counter()
    copy.mkdir()

    def check(content):
        (copy / "settings.toml").write_bytes(content)
        told = quietly("train", "--resume", copy, "--dry-run")
        assert told.code in (0, 2)
        assert told.code == 0 or "settings" in told.err
        seen[f"exit {told.code}"] += 1

    fuzz(examples, files((run / "settings.toml").read_bytes()), check)
    print(dict(seen), file=sys.stdout)
    assert seen["exit 2"] >= examples / 2

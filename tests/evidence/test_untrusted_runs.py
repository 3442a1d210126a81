"""Reports of runs that a stranger sent: their text stays text, and their links lead nowhere."""

import base64
import hashlib
import html
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

import diffrl
from diffrl.errors import DiffrlError
from diffrl.report import write_report

EVIL = (
    "</style></title><script>bad()</script><img src=x onerror='bad()'>\"'><a href=javascript:bad()>"
)
FILE_NAME = "<script>bad(1)<\\x2fscript>\"onload='bad()'"


class Page(HTMLParser):
    """Counts what could run, and keeps what stands in scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.scripts, self._inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._inside = tag == "script"

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)

    def handle_endtag(self, tag):
        self._inside = False


def harmless(page):
    """Assert that nothing but our own script can run."""
    script = (diffrl.report.page.files("diffrl.report") / "page.js").read_text("utf-8")
    assert page.scripts == [script] and page.tags.count("script") == 1
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert not [a for a in page.attributes if "javascript:" in a[2] and a[1] in ("href", "src")]
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)
    addresses = [v for _, name, v in page.attributes if name in ("src", "href", "xlink:href")]
    assert all(v.startswith(("data:", "#")) for v in addresses)


@pytest.fixture
def evil(runs, tmp_path):
    """A run in which every text that somebody else chooses tries to become part of the page."""
    copy = tmp_path / FILE_NAME / "1"
    shutil.copytree(runs / "sdpo/1", copy)
    settings = copy / "settings.toml"
    text = settings.read_text("utf-8")
    quoted = json.dumps(EVIL)
    for key in ("algo", "preset", "prompts", "ref"):
        text = re.sub(rf'(?m)^({key} += )"[^"\n]*"', lambda m: m[1] + quoted, text, count=1)
    text = text.replace("[rewards.pickscore]", f"[rewards.{EVIL}]").replace("  # ", f"  # {EVIL} ")
    settings.write_text(text + f"\n[{EVIL}]\n{'key'} = {quoted}  # {EVIL}\n", "utf-8")
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    more = {f"reward/{EVIL}/mean": 1.0, f"eval/{EVIL.replace('/', '')}/1-step": 2.0, "loss": EVIL}
    metrics = [json.dumps({**line, **more}) + "\n" for line in lines]
    (copy / "metrics.jsonl").write_text("".join(metrics))
    strange = {
        "machine": {"gpus": [EVIL], "cores": EVIL},
        "packages": {"diffrl": EVIL},
        "commit": EVIL,
    }
    (copy / "environment.json").write_text(json.dumps(strange))
    one = {"mean": 1.0, "low": 0.5, "high": 1.5}
    cell = {"subject": EVIL, "prompts": EVIL, "steps": 1, "found": {EVIL: one}, "wins": {EVIL: one}}
    (copy / "evaluation.json").write_text(json.dumps({"cells": [cell]}))
    (copy / "notices.jsonl").write_text(json.dumps({"text": EVIL}) + "\n")
    return copy


@pytest.mark.parametrize("several", [False, True])
def test_no_text_of_a_run_becomes_part_of_the_page(evil, runs, tmp_path, several):
    target = tmp_path / "page.html"
    write_report([evil, *([runs / "ddpo/1"] if several else [])], target)
    text = target.read_text("utf-8")
    harmless(Page(text))
    assert text.count("&lt;script&gt;bad()") > 10 and "svg" in Page(text).tags
    for svg in (tmp_path / "page-plots").glob("*.svg"):
        assert "<script" not in svg.read_text("utf-8")
    outside = [p for p in tmp_path.rglob("*.png") if p.parent.name not in ("page-plots", "images")]
    assert outside == []


def test_a_page_may_run_its_own_script_only_and_load_nothing(evil, tmp_path, unplotted):
    write_report([evil], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy.startswith("default-src &#39;none&#39;; ") and "img-src data:;" in policy
    (script,) = Page(text).scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.unescape(policy).endswith(f"; script-src 'sha256-{digest}'")
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_a_run_shows_itself_in_a_notebook_as_text(evil):
    run = diffrl.Run(evil)
    shown = Page(run._repr_html_())
    assert set(shown.tags) == {"b", "table", "tr", "td"} and shown.attributes == []


def test_the_report_runs_nothing_that_the_settings_name(runs, tmp_path, monkeypatch, unplotted):
    (tmp_path / "module_of_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(runs / "sdpo/1", copy)
    with (copy / "settings.toml").open("a") as file:
        file.write('\n[rewards.mine]\nweight = 1.0\npath = "module_of_mine:taste"\n')
    assert write_report([copy], tmp_path / "page.html") == []
    assert "module_of_mine:taste" in (tmp_path / "page.html").read_text("utf-8")
    assert not (tmp_path / "ran").exists() and "module_of_mine" not in sys.modules


@pytest.mark.parametrize("linked", ["images/00001.png", "images", "before-after"])
def test_pictures_through_links_that_leave_the_run_are_not_shown(runs, tmp_path, linked, unplotted):
    copy, secret = tmp_path / "run", tmp_path / "secret"
    shutil.copytree(runs / "sdpo/1", copy)
    write_report([copy], tmp_path / "before.html")
    before = (tmp_path / "before.html").read_text("utf-8")
    path = copy / ("images/before-after.png" if linked == "before-after" else linked)
    if path.is_dir():
        path.rename(secret)
        path.symlink_to(secret, target_is_directory=True)
    else:
        Image.new("RGB", (8, 8), (200, 0, 0)).save(secret, "PNG")
        path.unlink()
        path.symlink_to(secret)
    write_report([copy], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    lost = {"images/00001.png": 1, "images": 4, "before-after": 1}[linked]
    assert before.count("data:image/webp") - text.count("data:image/webp") == lost


def test_other_files_through_links_are_not_read_either(runs, tmp_path, unplotted):
    copy = tmp_path / "run"
    shutil.copytree(runs / "sdpo/1", copy)
    (tmp_path / "secret.json").write_text('{"commit": "a secret!!"}')
    (copy / "environment.json").unlink()
    (copy / "environment.json").symlink_to(tmp_path / "secret.json")
    write_report([copy], tmp_path / "page.html")
    assert "a secret" not in (tmp_path / "page.html").read_text("utf-8")
    (copy / "settings.toml").rename(tmp_path / "secret.toml")
    (copy / "settings.toml").symlink_to(tmp_path / "secret.toml")
    with pytest.raises(DiffrlError, match=r"settings\.toml is a link that leads out of it"):
        write_report([copy], tmp_path / "page.html")


def test_plots_are_not_written_through_a_link(runs, tmp_path):
    copy, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(runs / "sdpo/1", copy, ignore=shutil.ignore_patterns("plots"))
    elsewhere.mkdir()
    (copy / "plots").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(DiffrlError, match="plots is a link that leads out of"):
        write_report([copy], copy / "report.html")
    assert list(elsewhere.iterdir()) == []


def test_files_of_another_shape_leave_their_part_out(runs, tmp_path, unplotted):
    copy = tmp_path / "run"
    shutil.copytree(runs / "sdpo/1", copy)
    cell = {"subject": 1, "prompts": [], "steps": "x", "found": 3, "wins": 0}
    for name, content in (
        ("environment.json", {"machine": [], "packages": 3, "commit": {}}),
        ("evaluation.json", {"cells": [cell]}),
    ):
        (copy / name).write_text(json.dumps(content))
    with (copy / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 3, "samples": "many", "seconds": None}) + "\n")
    write_report([copy], tmp_path / "page.html")
    assert "Reward in training" in (tmp_path / "page.html").read_text("utf-8")

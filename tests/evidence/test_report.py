"""`diffrl report`: one file, all that a run left, and pages of broken runs."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from diffrl.report import write_report
from diffrl.report.charts import NAMED, _names, _plain, over
from diffrl.report.groups import grouped
from diffrl.report.records import read, read_settings
from diffrl.report.tables import apart, evaluation_tables, score_rows


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report([runs / "sdpo/1"], target) == []
    return target


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.addresses, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]


def opened(path):
    reader = Reader()
    reader.feed(path.read_text("utf-8"))
    return reader


def test_the_page_needs_no_other_file(page):
    addresses = opened(page).addresses
    assert addresses and all(a.startswith(("data:", "#")) for a in addresses)
    assert not re.search(r"url\((?!#)", page.read_text("utf-8"))


def test_the_page_shows_curves_pictures_scores_and_settings(page):
    text = page.read_text("utf-8")
    for wanted in (
        "Before and after", "Pictures over time", "Reward in training", "Numerics",
        "Reward by number of denoising steps", "Rewards that are only watched",
        "What reward hacking destroys", "loss.clip", "sampler.steps", "--set sampler.steps",
    ):  # fmt: skip
        assert wanted in text, wanted
    assert opened(page).tags.count("svg") == len(list((page.parent / "plots").glob("*.svg")))
    assert text.count('alt="epoch ') == 3 and 'type="range"' in text


def test_plots_are_files_as_well(page):
    names = {p.name for p in (page.parent / "plots").iterdir()}
    assert {n.removesuffix(".png") for n in names if n.endswith(".png")} == {
        n.removesuffix(".svg") for n in names if n.endswith(".svg")
    }
    assert "train-pickscore-over-seconds.png" in names and "grad_norm-over-samples.svg" in names


def test_runs_that_differ_in_their_seed_become_one_curve_with_a_band(runs, tmp_path):
    records, problems = read([runs])
    groups = grouped(records)
    assert problems == [] and [(g.name, len(g.records)) for g in groups] == [
        ("ddpo", 2), ("sdpo", 2),
    ]  # fmt: skip
    write_report([runs], tmp_path / "all.html")
    text = (tmp_path / "all.html").read_text("utf-8")
    assert "What differs, but for the seed." in text and "standard deviation over seeds" in text


def test_a_run_that_repeats_a_seed_is_no_other_seed(runs, tmp_path):
    shutil.copytree(runs / "sdpo/1", tmp_path / "again")
    groups = grouped(read([runs / "sdpo", tmp_path / "again"])[0])
    assert [len(g.records) for g in groups] == [2, 1]
    assert groups[1].name == f"sdpo, {tmp_path.name}/again"


def test_seeds_that_are_not_equally_far_are_shown_as_far_as_all_are(runs, tmp_path, unplotted):
    shutil.copytree(runs / "sdpo", tmp_path / "sdpo")
    metrics = tmp_path / "sdpo/1/metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("\n".join(lines[:2]) + "\n")
    problems = write_report([tmp_path / "sdpo"], tmp_path / "page.html")
    assert problems == [
        f"{tmp_path / 'sdpo/1'}: unfinished, at epoch 1 of 2",
        "runs that differ in their seed are not equally far (sdpo/1 at 1, sdpo/2 at 2); "
        "shown as far as all are",
    ]
    (group,) = grouped(read([tmp_path / "sdpo"])[0])
    (row, *_) = score_rows(group)
    after = [record.metrics[1]["eval/pickscore/1-step"] for record in group.records]
    assert row[3].startswith(f"{sum(after) / 2:.2f} ±")


def test_a_seed_that_has_not_begun_takes_no_curve_away(runs, tmp_path):
    shutil.copytree(runs / "sdpo", tmp_path / "sdpo")
    metrics = tmp_path / "sdpo/1/metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0] + "\n")
    records, _ = read([tmp_path / "sdpo"])
    (group,) = grouped(records)
    assert (
        over(group, "reward/pickscore/mean", "samples", "").x
        == over(replace(group, records=group.records[1:]), "reward/pickscore/mean", "samples", "").x
    )
    assert score_rows(group) and apart(group) == []
    assert "no epoch is finished" in records[0].missing()[0]


def test_a_seed_that_is_not_evaluated_yet_takes_no_score_away(runs, tmp_path):
    shutil.copytree(runs / "sdpo", tmp_path / "sdpo")
    metrics = tmp_path / "sdpo/1/metrics.jsonl"
    first, second, *_ = (json.loads(line) for line in metrics.read_text().splitlines())
    second = {k: v for k, v in second.items() if not k.startswith("eval/")}
    metrics.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    (group,) = grouped(read([tmp_path / "sdpo"])[0])
    assert score_rows(group) == score_rows(replace(group, records=group.records[1:]))
    (told,) = apart(group)
    assert told.startswith(f"{tmp_path / 'sdpo/1'}: left out of curves and means until")


def test_runs_of_one_name_are_told_apart_by_their_places(runs, tmp_path):
    for machine in ("a", "b"):
        shutil.copytree(runs / "sdpo/1", tmp_path / machine / "runs" / "x")
    names = [group.name for group in grouped(read([tmp_path / "a", tmp_path / "b"])[0])]
    assert names == ["sdpo, a/runs/x", "sdpo, b/runs/x"]


def test_a_folder_of_links_to_runs_stands_for_them(runs, tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "one").symlink_to(runs / "sdpo/1")
    assert len(read([tmp_path / "best"])[0]) == 1
    shutil.copytree(runs / "sdpo/2", tmp_path / "best" / "two")
    (tmp_path / "best" / "latest").symlink_to(tmp_path / "best" / "two")
    assert [one.folder.name for one in read([tmp_path / "best"])[0]] == ["one", "two"]


def test_lines_of_a_chart_have_names_of_their_own():
    long = "anchor=adaptive, gamma=0.99, decay={}, timestep_fraction=0.5, per=prompt-step"
    names = _names([long.format(d) for d in ("0.9", "0.99", "1")])
    assert len(set(names)) == 3 and _names([long])[0] == _plain(long, NAMED)


def test_an_evaluation_says_whose_weights_it_judged(runs, tmp_path):
    shutil.copytree(runs / "sdpo/1", tmp_path / "run")
    cell = {"subject": "run", "prompts": "seen", "steps": 1}
    cell |= {"found": {"a": {"mean": 1.0}}, "wins": {}}
    for epoch, name in ((2, "seen, epoch 2"), (1, "seen, epoch 1, while the run is at 2")):
        content = {"own": "run", "subjects": {"run": {"epoch": epoch}}, "cells": [cell]}
        (tmp_path / "run" / "evaluation.json").write_text(json.dumps(content))
        (record,) = read([tmp_path / "run"])[0]
        assert [t["name"] for t in evaluation_tables(record)] == [name]


def test_settings_are_read_from_the_file_as_it_is(runs):
    values = {v.key: v for v in read_settings(runs / "sdpo/1/settings.toml")}
    assert values["algo"].text == '"sdpo"'
    assert values["train.epochs"].text == "2" and "epochs" in values["train.epochs"].origin


def test_text_of_a_run_cannot_become_part_of_the_page(runs, tmp_path, unplotted):
    copy = tmp_path / "copy"
    shutil.copytree(runs / "sdpo/1", copy)
    path = copy / "settings.toml"
    path.write_text(path.read_text().replace('preset = "emoji"', 'preset = "<script>bad()"'))
    write_report([copy], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<script>bad()" not in text and "&lt;script&gt;bad()" in text


def test_what_a_run_noticed_is_on_the_page(runs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(runs / "sdpo/1", copy)
    said = {"epoch": 3, "source": "watchdog", "rule": "kl", "message": "far <b>away</b>"}
    torn = json.dumps(said)[:20]
    lines = [json.dumps({**said, "action": "rollback to epoch 1"}), torn]
    (copy / "notices.jsonl").write_text("\n".join(lines))
    write_report([copy], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "What was noticed" in text and "rollback to epoch 1" in text
    assert "far &lt;b&gt;away&lt;/b&gt;" in text and "<b>away" not in text
    assert "KL to the base model" in text


def test_a_run_without_an_epoch_is_shown_as_far_as_it_goes(runs, tmp_path, command, unplotted):
    copy = tmp_path / "young"
    shutil.copytree(runs / "sdpo/1", copy)
    path = copy / "metrics.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    code, out, told = command("report", copy)
    assert code == 2 and f"{copy}: no epoch is finished, so there are no curves" in told
    assert f"report: {copy / 'report.html'}" in out
    assert "Pictures over time" in (copy / "report.html").read_text("utf-8")


def test_what_is_no_run_is_said_and_the_others_are_shown(runs, tmp_path, command):
    target = tmp_path / "some.html"
    code, out, told = command("report", runs / "sdpo/1", tmp_path / "nothing", "-o", target)
    assert code == 2 and f"no run in {tmp_path / 'nothing'}" in told and str(target) in out
    assert target.is_file()
    code, _, told = command("report", tmp_path / "nothing")
    assert code == 2 and told.startswith(f"error: no run in {tmp_path / 'nothing'}")


def test_a_torn_metrics_file_and_a_missing_plugin_still_make_a_page(runs, tmp_path, unplotted):
    copy = tmp_path / "torn"
    shutil.copytree(runs / "sdpo/1", copy)
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "rew')
    picture = copy / "images/00001.png"
    picture.write_bytes(picture.read_bytes()[:100])
    settings = copy / "settings.toml"
    settings.write_text(settings.read_text().replace('algo = "sdpo"', 'algo = "of-a-stranger"'))
    (copy / "notices.jsonl").write_text('[]\n\n{"epo\n')
    assert write_report([copy], tmp_path / "page.html") == [
        f"cannot read {picture}",
        f"{copy / 'metrics.jsonl'}: 1 line cannot be read; left out",
        f"{copy / 'notices.jsonl'}: 2 lines cannot be read; left out",
    ]
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "of-a-stranger on pickscore" in text and text.count('alt="epoch ') == 2


def test_of_many_grids_some_are_shown_and_it_is_said(runs, tmp_path, unplotted):
    copy = tmp_path / "long"
    shutil.copytree(runs / "sdpo/1", copy)
    for epoch in range(3, 85):
        shutil.copy(copy / "images/00002.png", copy / f"images/{epoch:05d}.png")
    write_report([copy], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "One grid in 3 of 85, and the last." in text
    assert text.count('alt="epoch ') == 29 and 'alt="epoch 84"' in text
    write_report([runs / "sdpo/1"], tmp_path / "page.html")
    assert "One grid in" not in (tmp_path / "page.html").read_text("utf-8")


def test_without_a_script_the_last_picture_is_shown(page):
    text = page.read_text("utf-8")
    assert re.findall(r'<img alt="([^"]*)" class="on"', text) == ["epoch 2"]
    assert 'aria-valuetext="epoch 2"><output>epoch 2</output>' in text


def test_paths_and_values_may_hold_anything(runs, tmp_path):
    home = tmp_path / "checkpoints" / "a=b $x^$ # c"
    shutil.copytree(runs / "sdpo", home)
    path = home / "1/settings.toml"
    path.write_text(path.read_text().replace('prompts = "animals"', 'prompts = "my  # $l^$.txt"'))
    (problem,) = write_report([home], tmp_path / "page.html")
    assert "eval.prompts differs (my  # $l^$.txt, animals)" in problem
    assert "my  # $l^$.txt" in (tmp_path / "page.html").read_text("utf-8")


def test_a_run_writes_its_own_report(runs):
    import diffrl

    assert diffrl.Run(runs / "ddpo/2").report() == runs / "ddpo/2/report.html"


def test_train_writes_the_page_and_survives_where_it_cannot(sets, tmp_path, command, monkeypatch):
    words = [word for one in sets for word in ("--set", one)]
    train = ["train", "--algo", "sdpo", "--reward", "pickscore", "--epochs", "1", *words]
    code, out, _ = command(*train, "--output", tmp_path / "one")
    assert code == 0 and f"report: {tmp_path / 'one/report.html'}" in out
    assert (tmp_path / "one/report.html").is_file()

    def broken(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr("diffrl.report.page.sections", broken)
    code, out, _ = command(*train, "--output", tmp_path / "two")
    assert code == 0 and "report: not written (RuntimeError: no fonts)" in out


def chromium():
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_works_in_a_browser(page, width):
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 800})
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda r: asked.append(r.url) if r.url.startswith("http") else None)
        tab.goto(page.as_uri())
        assert tab.inner_text(".slides output") == "epoch 2"
        tab.focus(".slides input")
        tab.keyboard.press("ArrowLeft")
        assert tab.inner_text(".slides output") == "epoch 1"
        assert tab.get_attribute(".slides input", "aria-valuetext") == "epoch 1"
        assert tab.locator(".slides img:visible").count() == 1
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
    assert said == [] and asked == []


def test_a_page_that_cannot_be_written_is_refused_before_its_plots(runs, tmp_path, command):
    (tmp_path / "page").mkdir()
    code, _, err = command("report", runs / "sdpo/1", "-o", tmp_path / "page")
    assert code == 2 and "page': it is a folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["page"]


def test_scores_of_other_questions_are_not_drawn_together_in_silence(runs, tmp_path, unplotted):
    text = (runs / "sdpo/1/settings.toml").read_text()
    section = text.partition("[eval]")[2].partition("\n[")[0]
    seed = re.search(r"^seed += (\d+)", section, re.MULTILINE)
    shutil.copytree(runs / "sdpo/1", tmp_path / "x")
    changed = section.replace(seed[0], seed[0].replace(seed[1], "7"))
    (tmp_path / "x/settings.toml").write_text(text.replace(section, changed))
    problems = write_report([runs / "sdpo/1", tmp_path / "x"], tmp_path / "page.html")
    assert problems == [
        f"drawn together though eval.seed differs ({seed[1]}, 7): scores are not alike"
    ]
    changed = re.sub(r"(\[train\][^\[]*?\nprompts += )\S+", r'\1"mine.txt"', text)
    (tmp_path / "x/settings.toml").write_text(changed)  # which evaluations take as well
    (problem,) = write_report([runs / "sdpo/1", tmp_path / "x"], tmp_path / "page.html")
    assert "eval.prompts differs" in problem and "mine.txt" in problem
    other = text.replace("weight = 1.0", "weight = 2.0")
    assert other != text
    (tmp_path / "x/settings.toml").write_text(other)
    assert write_report([runs / "sdpo/1", tmp_path / "x"], tmp_path / "page.html") == []


def test_how_patiently_a_server_is_asked_does_not_set_runs_apart(runs, tmp_path, unplotted):
    def told(*of_rewards):
        for name, more in zip("ab", of_rewards, strict=True):
            shutil.copytree(runs / "sdpo/1", tmp_path / name, dirs_exist_ok=True)
            file = tmp_path / name / "settings.toml"
            text = file.read_text()
            assert text.count("weight = 1.0") == 1
            file.write_text(text.replace("weight = 1.0", f"weight = 1.0\n{more}"))
        return write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")

    url = 'url = "http://127.0.0.1:1"\n'
    assert told(f"{url}timeout = 5.0", f"{url}timeout = 300.0") == []
    assert "timeout differs (5.0, 300.0)" in told("timeout = 5.0", "timeout = 300.0")[0]
    assert "url differs" in told(url, url.replace(':1"', ':2"'))[0]


def test_the_page_says_of_which_code_a_run_was(runs, tmp_path, unplotted):
    shutil.copytree(runs / "sdpo/1", tmp_path / "x")
    file = tmp_path / "x/environment.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "commit": "0123456789abc-dirty"}))
    write_report([tmp_path / "x"], tmp_path / "page.html")
    assert "0123456789 with changed files" in (tmp_path / "page.html").read_text("utf-8")

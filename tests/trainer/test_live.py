import io

from rich.console import Console

from diffrl.events import EpochDone, RunDone, RunStarted
from diffrl.settings.resolve import resolve
from diffrl.trainer import checks
from diffrl.trainer.live import LiveView, live_view


def watch(run, table, width=160):
    out = io.StringIO()
    console = Console(file=out, force_terminal=table, width=width)
    view = LiveView(console, table)
    view.diffrl_run_started(RunStarted(run.folder, run.settings, 0))
    for metrics in run.metrics:
        view.diffrl_update_done(EpochDone(metrics["epoch"], 4, metrics))
    view.diffrl_run_done(RunDone(run.folder, 4))
    return out.getvalue()


def test_a_log_gets_one_line_per_epoch_and_the_result(tiny_run):
    text = watch(tiny_run, table=False)
    lines = [line for line in text.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["0/4", "1/4", "2/4", "3/4", "4/4"]
    assert "\x1b" not in text
    for figure in ("pickscore", "clipped", "log-prob gap", "grad norm", "samples/s", "left"):
        assert figure in lines[-1]
    assert "before" in text
    assert "before-after.png" in text
    assert "checkpoints/4" in text


def test_a_terminal_gets_a_table_that_draws_in_place(tiny_run):
    text = watch(tiny_run, table=True)
    assert "time left" in text
    assert "\x1b[" in text


def test_paths_are_printed_as_they_are(tiny_run, tmp_path):
    out, folder = io.StringIO(), tmp_path / "sweep[a,b]"
    folder.symlink_to(tiny_run.folder)
    view = LiveView(Console(file=out, width=400), False)
    view.diffrl_run_done(RunDone(folder, 4))
    assert f"adapter: {folder}/checkpoints/4\n" in out.getvalue()


def test_a_large_gap_is_noticed_and_said(tiny_run):
    limit = tiny_run.settings.recipe.loss.log_ratio_limit
    metrics = tiny_run.metrics[1]
    assert checks.of_epoch(tiny_run.settings, 1, metrics) == []
    large = {**metrics, "log_prob_gap/max": limit / 5}
    (notice,) = checks.of_epoch(tiny_run.settings, 1, large)
    assert (notice.rule, notice.measured, notice.limit) == ("log_prob_gap", limit / 5, limit / 10)
    out = io.StringIO()
    LiveView(Console(file=out, width=200), table=False).diffrl_noticed(notice)
    assert "epoch 1, check: the log-ratio of unchanged weights" in out.getvalue()
    assert "a tenth of the clip range" in out.getvalue()


def test_an_epoch_without_an_optimizer_step_is_noticed(tiny_run):
    settings, metrics = tiny_run.settings, dict(tiny_run.metrics[1])
    assert metrics.pop("updates")
    (notice,) = checks.of_epoch(settings, 1, metrics)
    assert "epoch 1 made no optimizer step; update scheduler 'pairs' yielded no" in notice.message
    (notice,) = checks.of_epoch(settings, 2, {**metrics, "updates": 0, "skipped": 3})
    assert (
        notice.message == "epoch 2 made no optimizer step: the gradients of all 3 were not finite"
    )
    assert checks.of_epoch(settings, 0, metrics) == []  # the evaluation before training


def test_a_sampler_that_tells_other_log_probs_is_noticed_without_a_clip_range():
    settings = resolve("rebel", ["pickscore"])
    assert settings.recipe.loss.log_ratio_limit is None
    assert checks.of_epoch(settings, 1, {"updates": 1, "log_prob_gap/max": 1e-3}) == []
    (notice,) = checks.of_epoch(settings, 1, {"updates": 1, "log_prob_gap/max": 570.0})
    assert "unchanged weights is 5.7e+02, more than 0.01" in notice.message
    assert "or the sampler tells other log-probs than it drew by" in notice.message


def test_the_view_fits_where_it_runs():
    assert not live_view(Console(file=io.StringIO()))._table
    assert live_view(Console(file=io.StringIO(), force_terminal=True))._table

"""Every command: what it prints, and how it refuses."""

import json
import sys
from types import SimpleNamespace

import pytest

from diffrl.cli import main
from diffrl.registry import Registry


@pytest.fixture
def diffrl(capsys, monkeypatch):
    """Runs the command line; returns its exit code, what it printed and its errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*argv):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def trainer(monkeypatch):
    """Stands in for the trainer and records what it was asked to run."""
    calls = []

    def run(settings, output=None, resume=None, live=False, at=None, anyway=False):
        calls.append(SimpleNamespace(settings=settings, output=output, resume=resume, live=live))
        return SimpleNamespace(folder=output or resume)

    monkeypatch.setattr("diffrl.cli.train.written", lambda folder, show: folder)
    monkeypatch.setitem(sys.modules, "diffrl.trainer", SimpleNamespace(run=run))
    return calls


TRAIN = ("train", "--algo", "sdpo", "--reward", "pickscore")


def test_version_is_printed(diffrl):
    import diffrl as package

    assert diffrl("--version") == (0, f"diffrl {package.__version__}\n", "")


def test_help_names_every_command(diffrl):
    code, out, _ = diffrl("--help")
    assert code == 0
    for command in ("train", "show", "list-plugins", "presets"):
        assert command in out


def test_presets_prints_each_with_its_description(diffrl):
    code, out, _ = diffrl("presets")
    assert code == 0
    assert out.startswith("emoji (default): bundled")
    assert 'model.ref = "stabilityai/sd-turbo"' in out


def test_list_plugins_prints_algorithms_with_package_and_stages(diffrl):
    code, out, _ = diffrl("list-plugins")
    row = next(line.split() for line in out.splitlines() if line.startswith("sdpo"))
    assert code == 0
    assert row[1] == "diffrl"
    assert row[3:] == ["ddim", "anchors", "returns", "pairs", "reward-difference"]


def test_list_plugins_prints_one_kind(diffrl):
    code, out, _ = diffrl("list-plugins", "--kind", "reward-predictor")
    assert code == 0
    assert out.startswith("reward predictor")
    assert any(line.startswith("anchors ") for line in out.splitlines())
    assert "sdpo" not in out


def test_list_plugins_as_json_holds_the_same(diffrl):
    code, out, _ = diffrl("list-plugins", "--json")
    content = json.loads(out)
    assert code == 0
    (sdpo,) = [row for row in content["algorithm"] if row["name"] == "sdpo"]
    assert (sdpo["sampler"], sdpo["package"]) == ("ddim", "diffrl")
    assert "clip" in next(r for r in content["loss"] if r["name"] == "reward-difference")["fields"]
    only = json.loads(diffrl("list-plugins", "--json", "--kind", "loss")[1])
    assert set(only) == {"loss", "broken", "duplicates"}


def test_list_plugins_shows_broken_plugins_and_duplicates_and_goes_on(diffrl, monkeypatch):
    builtins = ("diffrl.builtin.samplers", "a_module.that_is_missing")
    found = Registry(builtins)
    import diffrl.builtin.samplers as samplers

    copy = SimpleNamespace(diffrl_samplers=samplers.diffrl_samplers)
    found.register(copy, "copy", "copycat", "1.0")
    monkeypatch.setattr("diffrl.cli.plugins.registry", lambda: found)
    code, out, _ = diffrl("list-plugins")
    assert code == 0
    assert "that_is_missing" in out
    assert "ModuleNotFoundError" in out
    claimed = [line for line in out.splitlines() if "a sampler called 'ddim', too" in line]
    assert [line.split()[0] for line in claimed] == ["diffrl.builtin.samplers", "copy"]


def test_list_plugins_of_an_unknown_kind_is_refused_with_the_nearest(diffrl):
    code, out, err = diffrl("list-plugins", "--kind", "los")
    assert (code, out) == (2, "")
    assert err == "error: no kind of component is called 'los'. Did you mean loss?\n"


def test_show_prints_every_setting_with_its_origin(diffrl):
    code, out, _ = diffrl("show", "sdpo", "--set", "loss.clip=3e-4")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert lines[0].startswith("preset emoji: ")
    assert lines[1] == "sdpo arXiv:2411.11727"
    assert "clip 0.0003 --set loss.clip=3e-4" in lines
    assert "loss reward-difference (recipe 'sdpo')" in lines
    assert 'ref "bundled:pipeline" preset emoji' in lines


def test_train_says_its_preset_first_and_hands_its_settings_over(diffrl, trainer, tmp_path):
    code, out, _ = diffrl(*TRAIN, "--epochs", "3", "--output", str(tmp_path / "run"))
    (call,) = trainer
    assert code == 0
    assert out.splitlines()[0].startswith("preset emoji: ")
    assert (call.settings.train.epochs, call.output, call.resume) == (3, tmp_path / "run", None)
    assert call.live
    assert call.settings.origins["train.epochs"] == "--epochs 3"


def test_train_flags_are_settings(diffrl, trainer):
    code, *_ = diffrl(
        *(*TRAIN, "--model", "here", "--prompts", "p.txt", "--seed", "7", "--device", "cpu"),
        *("--precision", "bf16", "--reward-checkpoint", "pickscore=there"),
    )
    settings = trainer[0].settings
    assert code == 0
    assert (settings.model.ref, settings.model.device) == ("here", "cpu")
    assert (settings.train.prompts, settings.train.seed) == ("p.txt", 7)
    assert settings.model.precision == "bf16"
    assert settings.rewards[0].reward.checkpoint == "there"


def test_a_dry_run_prints_settings_and_trains_nothing(diffrl, trainer):
    code, out, _ = diffrl(*TRAIN, "--dry-run", "--preset", "sd-turbo")
    assert code == 0
    assert out.splitlines()[0].startswith("preset sd-turbo: ")
    assert "preset sd-turbo, reward pickscore" in out
    assert trainer == []


def test_a_run_is_resumed_with_its_own_settings(diffrl, trainer, saved):
    again = ("--epochs", "9", "--algo", "sdpo", "--reward", "pickscore:1.0")
    code, *_ = diffrl("train", "--resume", str(saved), *again)
    (call,) = trainer
    assert code == 0
    assert (call.resume, call.output) == (saved, None)
    assert (call.settings.train.epochs, call.settings.recipe.loss.clip) == (9, 0.5)


@pytest.fixture
def saved(tmp_path):
    """A run's folder with its settings."""
    from diffrl.settings.resolve import dump, resolve

    settings = resolve("sdpo", ["pickscore"], sets=["loss.clip=0.5"])
    (tmp_path / "settings.toml").write_text(dump(settings))
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--algo", "ddpo"), "--algo ddpo: {} was run with 'sdpo'; leave it out"),
        (("--reward", "aesthetic"), "--reward aesthetic: {} was run with pickscore; leave it out"),
        (("--preset", "sd-turbo"), "--preset sd-turbo: {} was run with 'emoji'; leave it out"),
        (
            ("--reward", "pickscore:some"),
            "--reward pickscore:some: {} weighs pickscore with 1; to change that use "
            "--set rewards.pickscore.weight=some",
        ),
        (("--config", "x.toml"), "--config x.toml: cannot be given with --resume {}"),
        (("--output", "there"), "--output there: cannot be given with --resume {}"),
    ],
)
def test_a_resumed_run_cannot_become_another_one(argv, message, diffrl, trainer, saved):
    code, _, err = diffrl("train", "--resume", str(saved), *argv)
    assert (code, err) == (2, f"error: {message.format(saved)}\n")
    assert trainer == []


def test_a_folder_without_a_run_cannot_be_resumed(diffrl, trainer, tmp_path):
    code, _, err = diffrl("train", "--resume", str(tmp_path))
    assert code == 2
    assert (
        err == f"error: cannot resume {tmp_path}: no settings.toml there; expected a run's folder\n"
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("train",), "  no algorithm; add --algo NAME. Known: "),
        (("train", "--algo", "sdop", "--reward", "pickscore"), "'sdop'. Did you mean sdpo?"),
        (("train", "--algo", "sdpo"), "  no reward to train on; add --reward NAME. Known: "),
        ((*TRAIN[:4], "pikscore"), "no reward is called 'pikscore'. Did you mean pickscore"),
        ((*TRAIN, "--preset", "emojy"), "no preset is called 'emojy'. Did you mean emoji?"),
        ((*TRAIN, "--set", "loss.clp=1"), "has no field 'clp'. Did you mean clip"),
        ((*TRAIN, "--config", "no.toml"), "  --config no.toml: No such file or directory"),
        ((*TRAIN, "--epochs", "0"), "  train.epochs = 0: input should be greater than 0\n"),
        ((*TRAIN, "--reward-checkpoint", "x"), "--reward-checkpoint x: expected NAME=REF"),
        ((*TRAIN, "--set", "sampler=ode"), "error: these stages do not fit together:\n"),
        ((*TRAIN, "--epochs", "five"), "error: Invalid value for '--epochs': "),
        (("train", "--algoo", "x"), "error: No such option: --algoo "),
        (("trian",), "error: No such command 'trian'"),
        (("show",), "error: Missing argument "),
        (("show", "sdop"), "'sdop'. Did you mean sdpo?"),
    ],
)
def test_each_bad_command_is_refused_with_a_message_and_no_traceback(
    argv, message, diffrl, trainer
):
    code, out, err = diffrl(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert trainer == []


def test_debug_shows_the_traceback_and_ends_with_the_same_code(diffrl):
    code, _, err = diffrl(*TRAIN, "--algo", "sdop", "--debug")
    assert code == 2 and err.startswith("Traceback")
    assert err.splitlines()[-1] == diffrl(*TRAIN, "--algo", "sdop")[2].splitlines()[-1]


def test_an_interrupted_run_ends_with_130_and_one_line(diffrl, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "diffrl.trainer", SimpleNamespace(run=interrupted))
    code, _, err = diffrl(*TRAIN)
    assert code == 130
    assert err == "error: interrupted\n"


def test_a_failure_that_is_not_the_users_keeps_its_traceback(monkeypatch):
    def fails(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setitem(sys.modules, "diffrl.trainer", SimpleNamespace(run=fails))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(TRAIN)


def test_what_the_system_refuses_is_told_in_a_line(monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device", "somewhere/file")

    monkeypatch.setattr("diffrl.cli.tables.preset_lines", full)
    with pytest.raises(SystemExit) as stopped:
        main(["presets"])
    assert stopped.value.code == 3
    told = capsys.readouterr().err
    assert told == "error: somewhere/file: No space left on device (--debug shows where)\n"
    with pytest.raises(SystemExit) as stopped:
        main(["presets", "--debug"])
    told = capsys.readouterr().err
    assert stopped.value.code == 3 and told.startswith("Traceback") and "No space left" in told

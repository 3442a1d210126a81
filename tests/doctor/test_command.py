"""`diffrl doctor`: what it prints, and how it exits."""

import json

import pytest
from PIL import Image

from diffrl.cli import main
from diffrl.doctor import read_pictures
from diffrl.errors import SettingsError
from diffrl.policy import UNetPolicy
from diffrl.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
EMOJI = [
    "model.device=cpu",
    "sampler.lengths=[]",
    "sampler.steps=2",
    "train.trajectories=4",
    "train.sample_batch=4",
    "train.micro_batch=1",
    "eval.watch=[]",
]


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Runs the command; returns its exit code, what it printed and its errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*argv, sets=()):
        with pytest.raises(SystemExit) as stopped:
            main(["doctor", *argv, *(word for one in sets for word in ("--set", one))])
        return stopped.value.code, *capsys.readouterr()

    return run


NEW = ("--algo", "sdpo", "--reward", "jpeg-compressibility")


def test_a_sound_run_exits_with_0(doctor, tiny_sets):
    code, out, _ = doctor(*NEW, sets=tiny_sets)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("sdpo on ")
    assert lines[1].split() == ["check", "measured", "limit", "verdict"]
    assert lines[-1] == "7 passed, 0 failed, 1 skipped"
    assert (
        next(line for line in lines if line.startswith("processes in step")).split()[-1] == "skip"
    )
    assert "a tenth of the clip range" in out


def test_a_broken_run_exits_with_1_and_says_what_to_do(doctor, tiny_sets, monkeypatch):
    monkeypatch.setattr(UNetPolicy, "follow", lambda self, decay: None)
    code, out, _ = doctor(*NEW, sets=tiny_sets)
    assert code == 1
    assert "weights: old and base must be copies of the trained weights" in out
    assert out.splitlines()[-1] == "6 passed, 1 failed, 1 skipped"
    code, out, _ = doctor(*NEW, "--json", sets=tiny_sets)
    said = json.loads(out)
    assert (code, said["failed"]) == (1, 1)
    failed = [one for one in said["findings"] if one["verdict"] == "fail"]
    assert [one["check"] for one in failed] == ["weights"]


def test_the_bundled_preset_is_sound(doctor):
    code, out, _ = doctor("--algo", "sdpo", "--reward", "pickscore", sets=EMOJI)
    assert code == 0, out
    assert "reward order: pickscore" in out


def test_a_run_is_examined_at_its_newest_checkpoint(doctor, tiny_sets, tmp_path):
    folder = tmp_path / "run"
    train("sdpo", "jpeg-compressibility", sets=tiny_sets, epochs=2, output=folder, live=False)
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    code, out, _ = doctor(str(folder))
    assert code == 0, out
    assert out.splitlines()[0].endswith(f"{folder}, epoch 2")
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    code, _, err = doctor(str(folder), "--algo", "ddpo")
    assert code == 2
    assert "was run with 'sdpo'; leave it out" in err


def test_bad_input_exits_with_2(doctor, tmp_path):
    code, _, err = doctor()
    assert code == 2
    assert "no algorithm; add --algo NAME" in err
    code, _, err = doctor(str(tmp_path))
    assert code == 2
    assert "no settings.toml there; expected a run's folder" in err
    code, _, err = doctor(*NEW, "--pictures", str(tmp_path))
    assert code == 2
    assert "no picture there" in err
    code, _, err = doctor(*NEW, "--precision", "fp16", "--device", "cpu")
    assert code == 2
    assert "half precision does not train" in err


def test_pictures_of_a_folder_have_prompts(tmp_path):
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "a-red_field.png")
    Image.new("L", (8, 8)).save(tmp_path / "two.jpg")
    (tmp_path / "two.txt").write_text("a dark\nsquare\n")
    found = read_pictures(tmp_path)
    assert found.text == ("a red field", "a dark square")
    assert [tuple(image.shape) for image in found.images] == [(3, 10, 20), (3, 8, 8)]
    assert found.images[0][0].min() == 1
    (tmp_path / "three.png").write_text("no picture")
    (tmp_path / "two.txt").write_bytes("ein Käfer".encode("latin-1"))
    Image.new("L", (30, 30)).save(tmp_path / "four.png", "PPM")  # which no ending says
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    with pytest.raises(SettingsError) as stopped:
        read_pictures(tmp_path)
    assert [line.partition(":")[0] for line in stopped.value.problems] == [
        f"--pictures {tmp_path / name}" for name in ("four.png", "huge.png", "three.png", "two.txt")
    ]


def test_given_pictures_take_the_place_of_drawn_ones(doctor, tiny_sets, tmp_path):
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "red.png")
    code, out, _ = doctor(*NEW, "--pictures", str(tmp_path), sets=tiny_sets)
    assert code == 0, out
    line = next(line for line in out.splitlines() if line.startswith("reward order"))
    assert "1 pictures" in line


def test_a_function_can_say_that_it_likes_noise():
    from diffrl.functions import FunctionScorer

    def grainy(images, prompts):
        return images.flatten(1).std(1)

    assert not FunctionScorer("here:grainy", grainy).likes_noise
    grainy.likes_noise = True
    assert FunctionScorer("here:grainy", grainy).likes_noise

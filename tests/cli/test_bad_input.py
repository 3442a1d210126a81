"""Bad input through the real trainer: one clear message, exit code 2, nothing written."""

import json
import shutil

import pytest

from diffrl.cli import main
from diffrl.emoji import PIPELINE

TRAIN = ("train", "--algo", "sdpo", "--reward", "pickscore")


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """Runs a command that must fail in a folder of its own; returns its message."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*argv):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stopped:
            main([*TRAIN, *argv])
        err = capsys.readouterr().err
        assert stopped.value.code == 2
        assert "Traceback" not in err
        assert sorted(tmp_path.rglob("*")) == before
        return " ".join(err.split())

    return run


def test_a_prompts_file_that_is_not_there(refused):
    expected = "no prompts at 'mine.txt': expected animals, unseen, a file with one prompt a line"
    assert expected in refused("--prompts", "mine.txt")


def test_an_empty_prompts_file(refused, tmp_path):
    (tmp_path / "mine.txt").write_text("\n \n")
    assert "no prompts in mine.txt: expected one prompt a line" in refused("--prompts", "mine.txt")


def test_a_prompts_file_that_is_not_text(refused, tmp_path):
    (tmp_path / "mine.txt").write_bytes(b"\xff\xfe\x00cat")
    assert "cannot read prompts from mine.txt" in refused("--prompts", "mine.txt")


def test_prompts_that_a_watched_reward_does_not_know(refused, tmp_path):
    (tmp_path / "mine.txt").write_text("cat\na castle\n")
    message = refused("--prompts", "mine.txt")
    assert "reward 'animal-accuracy' cannot score the prompts 'mine.txt'" in message
    assert "'castle' is no word of the emoji world" in message
    assert "leave it out with --set eval.watch=[]" in message


def test_a_word_for_what_is_split_that_does_not_exist(refused):
    message = refused("--set", "speed.shard=weight")
    assert "speed.shard = 'weight': expected off, gradients, weights or a DeepSpeed" in message


def test_an_output_folder_that_holds_a_run(refused, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "settings.toml").touch()
    assert "old already holds a run. Continue it with --resume old" in refused("--output", "old")


def test_an_output_folder_that_holds_something_else(refused, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "thesis.tex").touch()
    assert "old exists and is not empty" in refused("--output", "old")


def test_an_output_folder_below_a_file(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "cannot write file/run" in refused("--output", "file/run")


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer"])
def test_a_model_folder_that_lacks_a_part(refused, tmp_path, part):
    (tmp_path / "model").mkdir()
    index = PIPELINE / "model_index.json"
    shutil.copy(index, tmp_path / "model")
    for name in json.loads(index.read_text()):
        if name != part and (PIPELINE / name).is_dir():
            (tmp_path / "model" / name).mkdir()
    assert f"the model folder model lacks {part}" in refused("--model", "model")


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_a_model_in_a_single_file(refused, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    message = refused("--model", name)
    assert f"the model {name} is a single file; expected a diffusers pipeline folder" in message
    way = 'StableDiffusionPipeline.from_single_file("x.safetensors").save_pretrained("my-model")'
    assert (way in message) == (name == "x.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"addition_embed_type": "text_time"}, "addition_embed_type = 'text_time'"),
        ({"in_channels": 9}, "in_channels = 9, out_channels = 4"),
    ],
)
def test_a_model_of_another_kind(refused, tmp_path, change, said):
    shutil.copytree(PIPELINE, tmp_path / "model")
    path = tmp_path / "model" / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    message = refused("--model", "./model")
    assert f"the model ./model is of another kind ({said})" in message
    assert "SDXL and inpainting models are not supported" in message


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_a_model_whose_weights_are_cut_off(refused, tmp_path, part):
    shutil.copytree(PIPELINE, tmp_path / "model")
    (path,) = (tmp_path / "model" / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:5000])
    message = refused("--model", "./model", "--set", "eval.watch=[]")
    assert "cannot load the model './model' (" in message
    assert "Point to another copy, with safetensors, by --model FOLDER" in message


def test_an_output_folder_that_is_a_link_to_nothing(refused, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "link is a link to nothing; choose another --output" in refused("--output", "link")


def test_a_model_folder_that_is_not_there(refused):
    assert "no model at ./nothing: expected a diffusers pipeline" in refused("--model", "./nothing")


def test_a_reward_checkpoint_that_is_not_there(refused):
    message = refused("--reward-checkpoint", "pickscore=./nothing")
    assert "rewards.pickscore.checkpoint = './nothing': no such file or folder" in message


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sampler.steps=1001", "sampler.steps = 1001: input should be less than or equal to 1000"),
        ("eval.steps=[1, 1001]", "eval.steps = [1, 1001]: input should be at most 1000"),
        ("eval.steps=[]", "eval.steps = []: "),
        ("eval.eta=2", "eval.eta = 2: input should be less than or equal to 1"),
        ("model.size=2", "model.size = 2: input should be greater than or equal to 8"),
        ("train.seed=4294967296", "train.seed = 4294967296: input should be less than or equal to"),
        ("train.epochs=true", "train.epochs = True: input should be a number, not a truth value"),
        ("eval.steps=[1, true]", "eval.steps = [1, True]: input should be a number, not"),
        ("loss.clip=false", "loss.clip = False: input should be a number, not a truth value"),
        ("eval.watch=imagereward", "should be a list; write --set 'eval.watch=[…]', with quotes"),
        ("loss.name=clipped-ratio", "has no field 'name'. To swap it, write loss=clipped-ratio"),
        ("rewards.pickscor.scale=2", "'pickscor' is not in use (pickscore, animal-accuracy). Did"),
        ("model.device=cuda:99", "model.device = 'cuda:99': this machine has no such device"),
        ("train.trajectories=63", "train.trajectories = 63: input should be a multiple of"),
    ],
)
def test_a_setting_that_is_out_of_range(refused, setting, expected):
    assert expected in refused("--set", setting)


def test_all_problems_at_once(refused, tmp_path):
    (tmp_path / "file").touch()
    message = refused("--output", "file/run", "--prompts", "mine.txt", "--model", "./nothing")
    for expected in ("cannot write file/run", "no prompts at 'mine.txt'", "no model at ./nothing"):
        assert expected in message


def test_a_model_that_is_neither_local_nor_reachable(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([*TRAIN, "--model", "nobody/nothing-of-that-name"])
    err = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2 and "Traceback" not in err
    assert "cannot load the model 'nobody/nothing-of-that-name'" in err
    assert "Point to a local copy with --model FOLDER" in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("share", ["0", "1.5", "-1"])
def test_a_share_of_the_steps_outside_0_to_1(refused, share):
    message = refused("--set", f"timestep_fraction={share}")
    assert f"update_scheduler.timestep_fraction = {share}: input should be" in message


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("1", "needs groups of at least 2 rows"),
        ("3", "leaves one row of every group of sampler.group=3 untrained"),
    ],
)
def test_a_pair_algorithm_with_an_odd_or_too_small_group(refused, group, message):
    said = refused("--set", f"sampler.group={group}", "--set", "train.trajectories=66")
    assert message in said

"""`--preferences`: learning from pairs that somebody judged."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffrl.builtin.stored import Labels, Stored
from diffrl.cli import main
from diffrl.emoji.damage import blurred
from diffrl.emoji.render import render
from diffrl.errors import SettingsError, UnreadableData
from diffrl.hookspecs import hookimpl
from diffrl.pipeline import centre_square
from diffrl.preferences import read
from diffrl.registry import registry
from diffrl.tensors import Float, Int, Tensor
from diffrl.testing.toy import ToyJudge, ToyPolicy
from diffrl.trainer import Run, train
from diffrl.types import Prompts

SMALL = [
    "train.trajectories=8", "train.micro_batch=4", "sampler.steps=2", "skip_last=0",
    "eval.every=0", "eval.images=2", "eval.shown=1", "eval.steps=[1]", "eval.watch=[]",
]  # fmt: skip


@pytest.fixture
def diffrl(capsys, monkeypatch, tmp_path):
    """Return a function that runs the command line; it returns its exit code and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        with pytest.raises(SystemExit) as stopped:
            main(list(argv))
        said = capsys.readouterr()
        return stopped.value.code, said.out + said.err

    return run


def written(folder, rows, name="pairs.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def judged(tmp_path):
    """Renders preferred to their blurred selves, now first and now second, and one tie."""
    rng, rows = np.random.default_rng(0), []
    for i, prompt in enumerate(("fox", "whale", "cow", "fox")):
        sharp = render(prompt, rng)
        x = torch.from_numpy(sharp).permute(2, 0, 1)[None].float() / 255
        soft = blurred(x, torch.ones(1), torch.Generator())[0].permute(1, 2, 0)
        pictures = [sharp, (soft * 255).byte().numpy()]
        names = [f"{i}-{j}.png" for j in range(2)]
        for name, picture in zip(names, pictures[:: -1 if i % 2 else 1], strict=True):
            Image.fromarray(picture).save(tmp_path / name)
        rows.append({"prompt": prompt, "images": names, "choice": None if i == 2 else i % 2})
    return written(tmp_path, rows)


def test_labels_follow_the_choice(judged):
    labels = [pair.labels for pair in read(judged)]
    assert labels == [(1.0, -1.0), (-1.0, 1.0), (0.0, 0.0), (-1.0, 1.0)]


def test_a_prompt_gets_its_own_pairs_and_all_of_them(judged):
    policy, seen = ToyPolicy(), set()
    for seed in range(8):
        rng = torch.Generator().manual_seed(seed)
        rollout = Stored(file=str(judged), steps=3)(policy, ["fox", "cow"], rng)
        assert rollout.prompts.text == ("fox", "fox", "cow", "cow")
        assert rollout.labels is not None and rollout.labels[2:].tolist() == [0.0, 0.0]
        seen.add(tuple(rollout.labels[:2].tolist()))
    assert seen == {(1.0, -1.0), (-1.0, 1.0)}


def test_the_noise_of_a_path_ends_at_the_picture(tmp_path):
    latents = torch.randn(2, 2, 2, 2, generator=torch.Generator().manual_seed(3))
    for i, latent in enumerate(latents):
        np.save(tmp_path / f"{i}.npy", latent.numpy())
    row = {"prompt": "fox", "latents": ["0.npy", "1.npy"], "choice": 1}
    path = written(tmp_path, [row])
    sampler = Stored(file=str(path), steps=20)
    rollout = sampler(ToyPolicy(), ["fox"], torch.Generator().manual_seed(0))
    assert torch.allclose(rollout.x0, latents, atol=0.15)  # sigma of the last state is 0.029
    assert rollout.path is not None
    between = rollout.path.x[0] - rollout.path.x[1]
    apart = between.flatten(1).norm(dim=1) / (latents[0] - latents[1]).norm()
    assert (apart.diff() > 0).all() and apart[0] < 0.1  # the pair shares its noise


class Absent(ToyJudge):
    """A judge that must not be asked."""

    def __call__(
        self, x0: Float[Tensor, "b *latent"], prompts: Prompts, step: Int[Tensor, "b"]
    ) -> Float[Tensor, "b"]:
        """Refuse."""
        raise AssertionError("asked")


def test_labels_do_not_ask_the_judge(judged):
    rng = torch.Generator().manual_seed(0)
    rollout = Stored(file=str(judged), steps=3)(ToyPolicy(), ["fox"], rng)
    value = Labels()(rollout, Absent()).value
    assert value[:, :-1].abs().sum() == 0
    assert value[:, -1].tolist() == rollout.labels.tolist()


def test_training_prefers_what_was_preferred(judged, tmp_path, diffrl):
    arguments = ["train", "--algo", "d3po", "--reward", "pickscore", "--epochs", "4"]
    sets = [word for one in SMALL for word in ("--set", one)]
    code, said = diffrl(
        *arguments, "--preferences", str(judged), "--output", str(tmp_path / "run"), *sets
    )
    assert code == 0, said
    kept = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in kept.splitlines()]
    first, last = lines[1], lines[-1]
    assert first["loss/ranked_right"] == 0 and last["loss/ranked_right"] > 0
    assert 0 < sum(line["loss/preferred"] for line in lines[1:]) < 4  # cows are ties
    assert first["reward_queries"] == 0 and "log_prob_gap/max" not in first
    saved = Run(tmp_path / "run").settings.recipe
    assert saved.sampler == Stored(file=str(judged), steps=2) and saved.reward_predictor == Labels()
    judged.unlink()
    assert Run(tmp_path / "run").settings.recipe == saved  # a finished run needs no data
    again = diffrl("train", "--resume", str(tmp_path / "run"), "--epochs", "5")
    assert again[0] == 2 and "cannot read preferences" in again[1]


def test_no_reward_is_needed_where_none_is_asked(judged, tmp_path, diffrl):
    arguments = ["train", "--algo", "d3po", "--epochs", "1", "--preferences", str(judged)]
    sets = [word for one in SMALL for word in ("--set", one)]
    code, said = diffrl(*arguments, "--output", str(tmp_path / "run"), *sets)
    assert code == 0, said
    assert Run(tmp_path / "run").settings.rewards == ()
    code, said = diffrl("train", "--algo", "d3po", *sets)
    assert code == 2 and "no reward to train on; add --reward NAME" in said


def test_pictures_are_cropped_and_resized():
    x = torch.zeros(1, 3, 40, 80)
    x[..., 20:60] = 1.0
    assert centre_square(x, 40).equal(torch.ones(1, 3, 40, 40))
    small = centre_square(x, 16)
    assert small.shape == (1, 3, 16, 16) and small.min() > 0.99


def test_prompts_without_pairs_are_refused_before_anything_loads(judged, tmp_path, diffrl):
    code, said = diffrl(
        "train", "--algo", "d3po", "--reward", "pickscore", "--preferences", str(judged),
        "--prompts", "animals", "--output", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 2 and "has no pair for 'cat' and 41 more" in said
    assert not (tmp_path / "run").exists()


def test_losses_on_the_sampling_policy_are_refused(judged, diffrl):
    code, said = diffrl(
        "train", "--algo", "sdpo", "--reward", "pickscore", "--preferences", str(judged)
    )
    assert code == 2 and "needs log_prob, but no earlier stage gives it" in said


GOOD = {"prompt": "fox", "images": ["0-0.png", "0-1.png"], "choice": 0}
FLAT = {"prompt": "fox", "latents": ["flat.npy", "flat.npy"], "choice": 0}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "images": ["0-0.png", "gone.png"]}, "line 1: images: there is no .*gone.png"),
        ({**GOOD, "choice": 2}, "line 1: choice is 2; expected 0, 1, or null for neither"),
        ({"prompt": "fox", "images": ["0-0.png", "0-1.png"]}, "choice is missing"),
        ({**GOOD, "prompt": ""}, "prompt is ''; expected a text"),
        ({**GOOD, "images": ["0-0.png"]}, r"expected two paths"),
        ({**GOOD, "latents": ["a.npy", "b.npy"]}, "expected either images or latents"),
        ({**GOOD, "winner": 0}, "unknown key 'winner'"),
        ({**GOOD, "images": ["0-0.png", "torn.png"]}, "cannot identify image file .*torn.png"),
        ({**GOOD, "images": ["flat.npy", "flat.npy"]}, "is an array; put it under latents"),
        (FLAT, r"flat.npy holds float64 of shape \(2,\); expected floats of shape \(c, h, w\)"),
        ({**FLAT, "latents": ["0-0.png", "0-1.png"]}, "expected .npy files, found .*0-0.png"),
        ([1, 2], "expected a JSON object, found list"),
    ],
)
def test_bad_lines_are_named(judged, row, message):
    (judged.parent / "torn.png").write_bytes(b"not a picture")
    np.save(judged.parent / "flat.npy", np.zeros(2))
    path = written(judged.parent, [row], "bad.jsonl")
    with pytest.raises(SettingsError, match=message):
        read(path)


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../outside.png", "sub/../../outside.png", "link.png", "away/0-0.png"]
)
def test_a_file_may_not_name_what_lies_outside_of_its_folder(judged, tmp_path, name):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "0-0.png").rename(tmp_path / "outside.png")
    (tmp_path / "0-1.png").rename(home / "0-1.png")
    (home / "link.png").symlink_to(tmp_path / "outside.png")
    (home / "away").symlink_to(tmp_path, target_is_directory=True)
    Image.open(tmp_path / "outside.png").save(tmp_path / "0-0.png")
    path = written(home, [{**GOOD, "images": ["0-1.png", name]}])
    with pytest.raises(SettingsError, match=rf"line 1: images: '{name}' leads out of {home}"):
        read(path)


def test_links_that_stay_and_a_linked_folder_are_fine(judged, tmp_path):
    (tmp_path / "also.png").symlink_to("0-1.png")
    written(tmp_path, [{**GOOD, "images": ["0-0.png", "also.png"]}], "own.jsonl")
    (tmp_path.parent / f"{tmp_path.name}-link").symlink_to(tmp_path, target_is_directory=True)
    assert len(read(tmp_path.parent / f"{tmp_path.name}-link" / "own.jsonl")) == 1


@pytest.mark.parametrize("kind", ["images", "latents"])
def test_traps_among_the_files_are_bad_lines(judged, tmp_path, kind, monkeypatch):
    if kind == "images":  # which Pillow would hand to Ghostscript
        Image.new("RGB", (4, 4)).save(tmp_path / "trap.eps")
        (tmp_path / "trap.eps").rename(tmp_path / "trap")
        message = "cannot identify image file"
    else:
        np.savez(tmp_path / "trap.npz", a=np.zeros(2), b=np.zeros(2))
        (tmp_path / "trap.npz").rename(tmp_path / "trap.npy")
        message = "holds several arrays; expected one"
    name = "trap" if kind == "images" else "trap.npy"
    path = written(tmp_path, [{"prompt": "fox", kind: [name, name], "choice": 0}], "bad.jsonl")
    with pytest.raises(SettingsError, match=message):
        read(path)


def test_a_decompression_bomb_is_a_bad_line(judged, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(SettingsError, match="exceeds limit of 200 pixels"):
        read(written(tmp_path, [GOOD], "bomb.jsonl"))


def test_an_array_with_code_in_it_is_a_bad_line(judged, tmp_path):
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    path = written(tmp_path, [{**FLAT, "latents": ["code.npy", "code.npy"]}], "bad.jsonl")
    with pytest.raises(SettingsError, match=r"cannot read .*code\.npy"):
        read(path)


def test_all_bad_lines_at_once_before_anything_loads(judged, tmp_path, diffrl):
    rows = [{**GOOD, "images": ["0-0.png", f"gone-{i}.png"]} for i in range(12)]
    path = written(tmp_path, rows, "bad.jsonl")
    code, said = diffrl(
        "train", "--algo", "d3po", "--reward", "pickscore",
        "--preferences", str(path), "--output", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 2
    assert "line 8: images: there is no" in said and "4 more lines are wrong" in said
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match=r"cannot read preferences .*none\.jsonl: No such"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(SettingsError, match=r"none\.txt: expected a file that ends in \.jsonl"):
        read(tmp_path / "none.txt")


def test_an_empty_file(tmp_path):
    with pytest.raises(SettingsError, match="expected one JSON object a line"):
        read(written(tmp_path, []))


class Damages:
    """Cuts all pictures off after the first epoch."""

    def __init__(self, folder):
        self.folder = folder

    @hookimpl
    def diffrl_update_done(self, event):
        if event.epoch == 1:
            for path in self.folder.glob("*.png"):
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_picture_that_is_damaged_in_the_middle_of_a_run_loses_no_epoch(judged, tmp_path):
    damages = Damages(tmp_path)
    registry().register(damages)
    folder = tmp_path / "run"
    try:
        with pytest.raises(UnreadableData, match="epoch 1 is saved; continue with: diffrl train"):
            train(
                "d3po", "pickscore", preferences=judged, sets=SMALL, epochs=3, output=folder,
                live=False,
            )  # fmt: skip
    finally:
        registry().unregister(damages)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["1"]

"""`diffrl eval`: the same noise for all, intervals, and what cannot be judged."""

import json
import shutil
import sys
import types

import numpy
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffrl.cli.asked import prompts_of, usual_preset
from diffrl.errors import CheckpointMissing, OutOfMemory, SettingsError
from diffrl.evidence import judges
from diffrl.evidence.drawing import Artist
from diffrl.evidence.evaluation import frechet
from diffrl.evidence.protocol import Protocol
from diffrl.evidence.subjects import subject
from diffrl.registry import registry
from diffrl.scoring import ScoredBy
from diffrl.settings.resolve import resolve
from diffrl.trainer.look import Look

QUICK = [
    "--steps",
    "1,2",
    "--seeds",
    "2",
    "--prompts",
    "unseen",
    "--reward",
    "jpeg-compressibility",
]


@pytest.fixture(scope="module")
def judged(runs, model, tmp_path_factory):
    """The file that one evaluation of two runs, their base and a LoRA writes."""
    from diffrl.cli import main

    target = tmp_path_factory.mktemp("judged") / "all.json"
    lora = runs / "sdpo/1/checkpoints/2/pytorch_lora_weights.safetensors"
    words = [f"one={runs / 'sdpo/1'}", f"early={runs / 'sdpo/1'}@1", f"lora={lora}"]
    words.append(f"saved={runs / 'sdpo/1/checkpoints/2'}")
    options = ["--model", str(model), "-o", str(target)]
    with pytest.raises(SystemExit):
        main(["eval", *words, *QUICK, *options])
    return json.loads(target.read_text())


def cells(judged, name):
    return {c["steps"]: c for c in judged["cells"] if c["subject"] == name}


def test_an_adapter_is_judged_as_the_run_that_it_came_from(judged):
    for steps, cell in cells(judged, "one").items():
        assert cell["values"] == cells(judged, "lora")[steps]["values"]
        assert cell["values"] == cells(judged, "saved")[steps]["values"]
        assert cell["values"] != cells(judged, "early")[steps]["values"]


def test_every_figure_is_there_for_every_number_of_steps(judged):
    measures = {"sharpness", "edges", "color-entropy", "diversity", "diversity-clip"}
    assert judged["protocol"]["steps"] == [1, 2]
    for name in ("base", "one", "early", "lora"):
        found = cells(judged, name)
        assert sorted(found) == [1, 2]
        for cell in found.values():
            moved = set() if name == "base" else {"moved", "moved-clip"}
            judged_by = {"jpeg-compressibility", "animal-accuracy"}  # the emoji world's own judge
            assert set(cell["found"]) == measures | moved | judged_by
            assert len(cell["values"]["sharpness"]) == 8  # 4 prompts, 2 pictures of each
            one = cell["found"]["jpeg-compressibility"]
            assert one["low"] <= one["mean"] <= one["high"]
    assert cells(judged, "one")[1]["found"]["moved"]["mean"] > 0


def test_wins_are_counted_on_the_same_noise(judged):
    base, one = cells(judged, "base")[2], cells(judged, "one")[2]
    a, b = (numpy.array(c["values"]["jpeg-compressibility"]) for c in (base, one))
    share = 100 * ((b > a).mean() + (b == a).mean() / 2)
    assert one["wins"]["jpeg-compressibility"]["mean"] == pytest.approx(share)


def test_a_run_keeps_its_own_evaluation_of_its_newest_weights(runs, judged):
    kept = json.loads((runs / "sdpo/1/evaluation.json").read_text())
    assert (kept["own"], kept["subjects"]["one"]["epoch"]) == ("one", 2)
    assert {c["subject"] for c in kept["cells"]} == {"base", "one"}


def protocol(**changes):
    given = {
        "prompts": {"two": ("a cat", "a dog")}, "steps": (2,), "seeds": 2, "seed": 5,
        "sampler": "ddim", "eta": 1.0, "size": None, "guidance": 1.0,
    }  # fmt: skip
    return Protocol(**{**given, **changes})


def drawn(text, asked, model):
    artist = Artist(subject(text, str(model)), asked, "cpu")
    return torch.cat(list(artist.pictures(asked.text("two"), 2)))


def test_two_models_draw_from_the_same_noise_and_another_seed_from_other(runs, model):
    base = drawn(str(model), protocol(), model)
    again = drawn(str(model), protocol(), model)
    other = drawn(str(model), protocol(seed=6), model)
    assert torch.equal(base, again) and not torch.equal(base, other)
    trained = drawn(str(runs / "sdpo/1"), protocol(), model)
    assert (trained - base).abs().mean() < (other - base).abs().mean()


def test_half_precision_draws_almost_the_same(runs, model):
    run = str(runs / "sdpo/1")
    exact, half = (drawn(run, protocol(precision=p), model) for p in ("fp32", "bf16"))
    assert 0 < (exact - half).abs().mean() < 0.02


def cheap(images, prompts):
    return images.mean((1, 2, 3))


cheap.higher_is_better = False


def ranked(images, prompts):
    assert len(set(prompts)) == 1
    return images.mean((1, 2, 3)).argsort().argsort().float()


ranked.groupwise = True


def test_rewards_of_which_less_is_more_and_groupwise_ones(runs, command, tmp_path, monkeypatch):
    module = types.ModuleType("of_mine")
    module.cheap, module.ranked = cheap, ranked
    monkeypatch.setitem(sys.modules, "of_mine", module)
    words = [runs / "ddpo/1"]
    some = ["--steps", "2", "--seeds", "3", "--prompts", "unseen", "-o", tmp_path / "e.json"]
    named = ["--reward", "of_mine:cheap", "--reward", "of_mine:ranked"]
    code, _, told = command("eval", *words, *some, *named)
    assert code == 0, told
    content = json.loads((tmp_path / "e.json").read_text())
    assert content["lower_is_better"] == ["cheap"]
    base, own = (next(c for c in content["cells"] if c["subject"] == n) for n in ("base", "1"))
    a, b = (numpy.array(c["values"]["cheap"]) for c in (base, own))
    share = 100 * ((b < a).mean() + (b == a).mean() / 2)
    assert own["wins"]["cheap"]["mean"] == pytest.approx(share)
    assert sorted(own["values"]["ranked"]) == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    assert content["groupwise"] == ["ranked"] and "ranked" not in own["wins"]
    assert told.count("reward 'ranked' scores pictures only beside others of the same model") == 1
    kept = shutil.copytree(runs / "ddpo/1", tmp_path / "again")
    code, out, told = command("compare", runs / "ddpo/1", kept)
    assert code == 2 and "unseen/cheap/2-step" in out and "ranked" not in out
    assert "reward 'ranked' scores pictures only beside others of the same model; left out" in told
    (runs / "ddpo/1/evaluation.json").unlink()


def test_a_reward_without_a_score_does_not_spoil_the_others(runs, command, tmp_path, monkeypatch):
    module = types.ModuleType("of_mine")
    module.broken = lambda images, prompts: [float("nan")] * len(images)
    monkeypatch.setitem(sys.modules, "of_mine", module)
    target = tmp_path / "e.json"
    words = [f"{runs / 'ddpo/1'}@1", "--steps", "1", "--prompts", "unseen", "-o", target]
    named = ["--reward", "of_mine:broken", "--reward", "jpeg-compressibility"]
    code, out, told = command("eval", *words, *named)
    assert code == 0, told
    assert "jpeg-compressibility" in out
    found = json.loads(target.read_text())["cells"][0]["found"]
    assert "broken" not in found and "jpeg-compressibility" in found


def test_a_reward_that_fails_for_all_is_told_after_the_others_are_shown(
    runs, command, tmp_path, monkeypatch
):
    def broken(images, prompts):
        raise ValueError("no network here")

    module = types.ModuleType("of_mine")
    module.broken = broken
    monkeypatch.setitem(sys.modules, "of_mine", module)
    target = tmp_path / "e.json"
    words = [f"{runs / 'ddpo/1'}@1", "--steps", "1", "--prompts", "unseen", "-o", target]
    named = ["--reward", "of_mine:broken", "--reward", "jpeg-compressibility"]
    code, out, told = command("eval", *words, *named)
    assert code == 3 and f"every picture's scores: {target}" in out
    for name in ("base", "1@1"):
        assert f"{name}: unseen, 1 step: " in told.partition("error: ")[2]
    assert "no network here" in told and "Traceback" not in told
    for cell in json.loads(target.read_text())["cells"]:
        assert "broken" not in cell["found"] and "jpeg-compressibility" in cell["found"]


def test_memory_that_ends_is_one_line_and_finished_models_are_shown(
    runs, command, tmp_path, monkeypatch
):
    draw = Artist.pictures

    def ending(self, text, steps, seen):
        if steps == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return draw(self, text, steps, seen)

    monkeypatch.setattr(Artist, "pictures", ending)
    words = [runs / "ddpo/1", *QUICK, "--base", "none", "-o", tmp_path / "e.json"]
    code, _, told = command("eval", *words)
    assert code == 3 and "error: 1: unseen, 2 steps: memory ends in looking at pic" in told


@pytest.mark.parametrize(("most", "ends"), [(3, False), (0, True)])
def test_calls_are_halved_until_memory_holds_them(runs, command, tmp_path, monkeypatch, most, ends):
    words = [runs / "ddpo/1", "--steps", "2", "--prompts", "unseen", "--seeds", "2", "--base"]
    words += ["none", "--reward", "jpeg-compressibility", "-o"]
    whole, pieces = tmp_path / "whole.json", tmp_path / "pieces.json"
    assert command("eval", *words, whole)[0] == 0
    call, rows = UNet2DConditionModel.forward, []

    def small(self, sample, *inputs, **more):
        if len(sample) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        rows.append(len(sample))
        return call(self, sample, *inputs, **more)

    monkeypatch.setattr(UNet2DConditionModel, "forward", small)
    code, _, told = command("eval", *words, pieces)
    if ends:
        assert code == 3 and "1: unseen, 2 steps: memory ends even with pictures in one" in told
        return
    assert code == 0 and sum(rows) == 2 * 8 and max(rows) == 2, told
    (one,), (other,) = (json.loads(p.read_text())["cells"] for p in (whole, pieces))
    name = "jpeg-compressibility"  # the same noise, whatever the pieces
    assert other["values"][name] == pytest.approx(one["values"][name], rel=1e-2)


def test_looking_at_pictures_is_halved_too(runs, command, tmp_path, monkeypatch):
    add, sizes = Look.add, []

    def small(self, images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        sizes.append(len(images))
        add(self, images)

    monkeypatch.setattr(Look, "add", small)
    words = ["--steps", "2", "--prompts", "unseen", "--seeds", "2", "--base", "none"]
    words += ["--reward", "jpeg-compressibility", "-o", tmp_path / "e.json"]
    code, _, told = command("eval", runs / "ddpo/1", *words)
    assert code == 0 and sizes == [2] * 4, told


def test_a_reward_that_memory_does_not_hold_is_left_out(monkeypatch):
    load = ScoredBy.load

    def full(reward, device, weight):
        if reward.name == "pickscore":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return load(reward, device, weight)

    monkeypatch.setattr(ScoredBy, "load", full)
    prompts = {"one": ("a cat",)}
    found, left_out = judges.open_rewards([], "emoji", [], [], prompts, "cpu")
    assert "jpeg-compressibility" in [one.scorer.name for one in found]
    assert any("reward 'pickscore': memory ends in loading it" in line for line in left_out)
    with pytest.raises(OutOfMemory, match="reward 'pickscore': memory ends in loading it; try"):
        judges.open_rewards(["pickscore"], "emoji", [], [], prompts, "cpu")


def test_a_model_without_a_run_is_drawn_as_its_preset_has_it(command, monkeypatch):
    seen = {}

    def question(asked, runs, drawn, precision):
        seen.update(drawn)
        raise SettingsError(["seen"])

    monkeypatch.setattr("diffrl.cli.evaluate.protocol_of", question)
    for model, wanted in (
        ("SimianLuo/LCM_Dreamshaper_v7", ("lcm", 8.0)),
        ("stabilityai/sd-turbo", ("ddim", 1.0)),
    ):
        code, _, told = command("eval", model, "--precision", "fp32", "--device", "cpu")
        assert code == 2 and "seen" in told
        assert (seen["sampler"], seen.get("guidance", 1.0)) == wanted


def test_stored_pictures_that_are_gone_do_not_end_an_evaluation(tmp_path, capsys):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "a cat", "images": ["a.png", "b.png"], "choice": 0}\n')
    runs = [resolve("d3po", ["jpeg-compressibility"], sets=[f'train.prompts="{pairs}"'])]
    assert list(prompts_of([], runs)) == ["animals", "unseen"]
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("left out: ") and "a.png" in told


def test_one_picture_has_no_interval(runs, command, tmp_path):
    (tmp_path / "one.txt").write_text("a blue cat\n")
    words = ["--steps", "1", "--seeds", "1", "--prompts", tmp_path / "one.txt", "--base", "none"]
    words += ["--reward", "jpeg-compressibility", "-o", tmp_path / "e.json"]
    code, out, _ = command("eval", f"{runs / 'ddpo/1'}@1", *words)
    assert code == 0 and "±" not in out.partition("model's")[2]
    (cell,) = json.loads((tmp_path / "e.json").read_text())["cells"]
    assert cell["found"]["jpeg-compressibility"]["low"] is None


def test_the_distance_of_distributions_is_that_of_gaussians():
    torch.manual_seed(0)
    one = torch.randn(4000, 3)
    shifted = torch.randn(4000, 3) * torch.tensor([2.0, 1.0, 1.0]) + torch.tensor([0.0, 3.0, 0.0])
    assert frechet(one, torch.randn(4000, 3)) == pytest.approx(0.0, abs=0.02)
    assert frechet(shifted, one) == pytest.approx(9 + 1, rel=0.05)  # |mean|² + (2 - 1)²


def test_a_distance_of_distributions_is_shown_kept_and_compared_without_an_interval(
    runs, command, tmp_path, monkeypatch
):
    monkeypatch.setattr("diffrl.evidence.evaluation.FRECHET", 8)
    for name in ("sdpo", "ddpo"):
        shutil.copytree(runs / name / "1", tmp_path / name)
    pair, target = [tmp_path / "sdpo", tmp_path / "ddpo"], tmp_path / "e.json"
    code, out, told = command("eval", *pair, *QUICK, "-o", target)
    assert code == 0 and "frechet-clip" in out and "of diversity over prompts" in out, told
    cells = {
        (c["subject"], c["steps"]): c["found"] for c in json.loads(target.read_text())["cells"]
    }
    assert "frechet-clip" not in cells["base", 2]
    one, other = (cells[name, 2]["frechet-clip"] for name in ("sdpo", "ddpo"))
    assert one["mean"] > 0 and (one["low"], one["count"], one["units"]) == (None, 8, 1)
    _, out, _ = command("compare", *pair, "--json")
    (found,) = json.loads(out)["verdicts"].values()
    (said,) = (v for v in found if v["metric"] == "unseen/frechet-clip/2-step")
    assert said["change"]["mean"] == pytest.approx(other["mean"] - one["mean"])
    assert said["change"]["low"] is None and said["verdict"] == "not distinguishable"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere/there"], "cannot load the model 'nowhere/there'"),
        (["./nowhere"], "./nowhere: nothing is there; expected a run's folder, a LoRA"),
        (["{runs}/sdpo/1@9"], "no checkpoint of epoch 9; there are 1, 2"),
        (["{runs}/sdpo"], "expected a run (settings.toml), a LoRA"),
        (["{runs}/sdpo/1", "{runs}/ddpo/1"], "both would be called '1'; write NAME=PATH"),
        (["{runs}/sdpo/1", "--steps", "1,x"], "'x' is no number of steps from 1 to 1000"),
        (["{runs}/sdpo/1", "--reward", "pickscor"], "no reward is called 'pickscor'"),
        (["{runs}/sdpo/1", "--prompts", "nothing.txt"], "no prompts at 'nothing.txt'"),
        (["{runs}/sdpo/1", "--sampler", "stored"], "--sampler stored: cannot draw by itself"),
        (["{runs}/sdpo/1", "--device", "tpu"], "--device 'tpu': expected auto, cpu"),
        (["{runs}/sdpo/1", "--precision", "fp8"], "--precision fp8: expected fp32"),
        (["{runs}/typo"], "typo: nothing is there; expected a run's folder"),
        (["{runs}/sdpo/3"], "or a model's folder or hub id. Known: 1, 2."),
        (["{runs}/sdpo/1", "--set", "nothing.x=1"], "--set nothing.x=1: about no reward"),
        (["{runs}/sdpo/1", "m=bundled:pipeline", "--base", "./no"], "./no: nothing is there"),
    ],
)
def test_what_cannot_be_judged_is_said_in_one_line(words, said, runs, command, tmp_path):
    target = tmp_path / "none.json"
    given = [word.format(runs=runs) for word in words]
    code, _, told = command("eval", *given, "-o", target)
    assert code == 2 and "error: " in told and said in told, told
    assert not target.exists()


def test_a_run_of_its_own_prompts_is_judged_on_these(tmp_path, capsys):
    mine = tmp_path / "mine.txt"
    mine.write_text("".join(f"a street {n}\n" for n in range(9)))
    sets = [f'train.prompts="{mine}"', "eval.images=6"]
    runs = [resolve("sdpo", ["jpeg-compressibility"], "sd-turbo", None, sets)]
    found = prompts_of([], runs)
    assert list(found) == [str(mine), "unseen"] and found[str(mine)][-1] == "a street 5"
    assert len(prompts_of([str(mine)], runs)[str(mine)]) == 9  # asked for, it is whole
    mine.unlink()
    assert list(prompts_of([], runs)) == ["animals", "unseen"]
    assert f"left out: no prompts at '{mine}'" in capsys.readouterr().err


def test_a_model_is_judged_by_the_rewards_of_its_preset(capsys):
    assert usual_preset(["mine=stabilityai/sd-turbo@main"], None) == "sd-turbo"
    assert usual_preset(["bundled:pipeline"], None) == "emoji"
    assert capsys.readouterr().err == ""
    assert usual_preset(["somebody/else"], None) == "emoji"
    assert "none is of the model 'somebody/else'; name another with" in capsys.readouterr().err
    for preset, wanted in (("emoji", False), ("sd-turbo", True)):
        left_out = []
        found = {r.name for r in judges._available(preset, [], [], left_out)}
        assert ("animal-accuracy" not in found) is wanted
        assert any("of the preset 'emoji' alone" in line for line in left_out) is wanted
    own = [registry().get("reward", "animal-accuracy").value()]  # of a judged run
    assert own[0] in list(judges._available("sd-turbo", [], own, []))


def test_a_lora_of_another_peft_that_does_not_load_is_told_in_one_line(runs, tmp_path):
    lora = runs / "sdpo/1/checkpoints/2/pytorch_lora_weights.safetensors"
    with safe_open(lora, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    metadata["unet.some_future_field"] = 1
    told = {"lora_adapter_metadata": json.dumps(metadata), "format": "pt"}
    save_file(load_file(lora), tmp_path / "l.safetensors", told)
    with pytest.raises(CheckpointMissing, match="do not fit the model"):
        subject(str(tmp_path / "l.safetensors"), "bundled:pipeline").pipeline()


def test_a_reward_that_knows_other_prompts_is_left_out_or_refused(runs, command, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a quiet street\n")
    run, target = runs / "sdpo/1", tmp_path / "e.json"
    some = ["--prompts", prompts, "--steps", "1", "--seeds", "1", "-o", target]
    code, _, told = command("eval", run, *some, "--reward", "animal-accuracy")
    assert code == 2 and "cannot score these prompts" in told
    code, out, told = command("eval", run, *some)
    assert code == 0 and "left out: reward 'animal-accuracy' cannot score these prompts" in told
    assert "pickscore" in out and "animal-accuracy" not in out


def test_a_run_without_a_checkpoint_says_how_to_get_one(runs, command, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs / "sdpo/1", unfinished)
    shutil.rmtree(unfinished / "checkpoints")
    code, _, told = command("eval", unfinished)
    assert code == 2 and f"no checkpoint there yet; continue it with --resume {unfinished}" in told


def test_more_steps_than_the_sampler_takes_are_refused_before_weights_load(model, command):
    code, _, err = command("eval", model, "--sampler", "lcm", "--steps", "1,64", "--seeds", "1")
    assert code == 2
    assert "64' is no number of steps from 1 to 50, the most of the sampler 'lcm'" in err


def test_a_sampler_that_reads_data_is_refused_by_what_it_lacks(model, command):
    code, _, err = command("eval", model, "--sampler", "stored")
    assert code == 2
    assert "--sampler stored: cannot draw by itself, since it must be told file\n" in err


def test_runs_that_were_set_otherwise_are_judged_alike_and_it_is_said(runs, tmp_path, command):
    other = tmp_path / "other"
    shutil.copytree(runs / "sdpo/1", other)
    path = other / "settings.toml"
    text = path.read_text("utf-8").replace("guidance = 1.0", "guidance = 3.0")
    text = text.replace("\neta = 1.0", "\neta = 0.5")
    path.write_text(text.replace("quality = 95", "quality = 7"), "utf-8")
    words = [runs / "sdpo/1", other, *QUICK, "--base", "none", "-o", tmp_path / "all.json"]
    code, _, err = command("eval", *words)
    assert code == 0, err
    assert "judged alike: guidance 1.0 for all; the run of other has 3.0" in err
    assert "judged alike: eta 1.0 for all; the run of other has 0.5" in err
    assert "reward 'jpeg-compressibility' is set as in 1; other has other quality" in err
    assert "the run of 1 " not in err
    words[words.index("jpeg-compressibility")] = "jpeg-incompressibility"
    _, _, err = command("eval", *words)
    assert "judged alike: guidance" in err and "is set as in" not in err

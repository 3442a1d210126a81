import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import diffrl
from diffrl import trainer
from diffrl.adapters import LORA_FILE
from diffrl.errors import DiffrlError, RunExists
from diffrl.folder import METRICS, read_metrics
from diffrl.trainer import Run, checkpoint


def test_a_run_leaves_settings_environment_metrics_pictures_and_checkpoints(tiny_run):
    here = {p.name for p in tiny_run.folder.iterdir()}
    wanted = {"settings.toml", "environment.json", "metrics.jsonl", "images", "checkpoints"}
    assert wanted | {"tensorboard", "evaluations", ".lock"} == here
    assert [m["epoch"] for m in tiny_run.metrics] == [0, 1, 2, 3, 4]
    assert [p.name for p in tiny_run.checkpoints] == ["1", "2", "3", "4"]
    environment = json.loads((tiny_run.folder / "environment.json").read_text())
    assert environment["packages"]["diffrl"] == diffrl.__version__
    assert set(environment["plugins"]) >= {"sdpo", "ddpo"}
    assert not [name for name in environment["plugins"] if "Observer" in name or "." in name]


def test_pictures_are_drawn_at_the_start_every_few_epochs_and_the_end(tiny_run):
    names = [p.name for p in tiny_run.pictures]
    assert names == ["00000.png", "00002.png", "00004.png", "before-after.png"]
    heights = []
    for name in (names[0], names[-1]):
        with Image.open(tiny_run.folder / "images" / name) as picture:
            heights.append(picture.height)
    assert heights[0] < heights[1]


def test_every_picture_of_an_evaluation_is_on_record(tiny_run):
    files = sorted((tiny_run.folder / "evaluations").iterdir())
    assert [f.name for f in files] == ["00000.json", "00002.json", "00004.json"]
    for file in files:
        record = json.loads(file.read_text())
        line = tiny_run.metrics[record["epoch"]]
        assert "picture/sharpness/1-step" in record["scores"]
        for name, each in record["scores"].items():
            assert len(each) == len(record["prompts"]) == 3
            assert sum(each) / len(each) == pytest.approx(line[name], rel=1e-5)


def test_metrics_count_samples_and_reward_queries(tiny_run):
    last = tiny_run.metrics[-1]
    assert last["samples"] == 32
    assert 16 <= last["reward_queries"] <= 24
    recipe = tiny_run.settings.recipe
    sampler = recipe.sampler.for_epoch(int(last["epoch"]))
    assert last["updates"] == recipe.update_scheduler.trained(sampler.steps)


def test_the_learning_rate_falls_by_its_factor_after_each_epoch(tiny_sets, tmp_path):
    sets = [*tiny_sets, "optimizer.lr=0.5e-2", "optimizer.lr_decay=0.5"]
    run = diffrl.train("sdpo", "pickscore", sets=sets, epochs=2, output=tmp_path / "r", live=False)
    assert [m.get("lr") for m in run.metrics] == [None, 5e-3, 2.5e-3]
    state = checkpoint.read(run.checkpoints[-1])
    assert [group["lr"] for group in state["optimizer"]["param_groups"]] == [2.5e-3]


def test_a_picture_is_the_same_from_the_trainer_and_from_plain_diffusers(tiny_run, tiny_model):
    from diffusers import StableDiffusionPipeline

    from diffrl.adapters import attach_lora
    from diffrl.pipeline import ddim_schedule

    adapter = tiny_run.settings.adapter
    folder = tiny_run.checkpoints[-1]
    trained = StableDiffusionPipeline.from_pretrained(tiny_model)
    untouched = StableDiffusionPipeline.from_pretrained(tiny_model)
    attach_lora(trained.unet, adapter.rank, adapter.alpha, seed=9)
    state = checkpoint.read(folder)
    missing = trained.unet.load_state_dict(state["trained"], strict=False)
    assert not missing.unexpected_keys
    plain = StableDiffusionPipeline.from_pretrained(tiny_model)
    plain.load_lora_weights(folder, weight_name=LORA_FILE)
    pictures = []
    for pipeline in (trained, plain, tiny_run.pipeline(), untouched):
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = ddim_schedule(pipeline.scheduler.config)
        rng = torch.Generator().manual_seed(0)
        made = pipeline(
            "a cat", num_inference_steps=2, guidance_scale=1.0, generator=rng, output_type="pt"
        )
        pictures.append(made.images)
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[1], pictures[2])
    assert not torch.equal(pictures[0], pictures[3])


def test_an_adapter_whose_alpha_is_not_its_rank_loads_at_its_own_scale(tiny_model, tmp_path):
    from diffusers import StableDiffusionPipeline

    from diffrl.adapters import attach_lora, load_weights, save_weights

    made, loaded = (StableDiffusionPipeline.from_pretrained(tiny_model) for _ in range(2))
    attach_lora(made.unet, 2, 8.0, seed=0)
    for name, p in made.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)
    save_weights(made.unet, tmp_path)
    load_weights(loaded, tmp_path)
    x, t, cond = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 16, 32)
    with torch.no_grad():
        assert torch.equal(made.unet(x, t, cond).sample, loaded.unet(x, t, cond).sample)
    with safe_open(tmp_path / LORA_FILE, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert {"unet.r", "unet.lora_alpha", "unet.target_modules"} <= set(told)
    assert not [name for name in told if "version" in name or told[name] is None]
    assert told["unet.rank_pattern"] == {}  # which diffusers before 0.40 looks for
    assert len(told) <= 6  # each name that an older peft does not know is one it refuses


def test_a_run_is_opened_by_its_path(tiny_run):
    again = Run(str(tiny_run.folder))
    assert again.metrics == tiny_run.metrics
    assert again.settings == tiny_run.settings


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DiffrlError, match="no run in"):
        Run(tmp_path)


def test_a_torn_last_line_of_metrics_is_left_out(tmp_path):
    (tmp_path / METRICS).write_text('{"epoch": 0}\n{"epoch": 1}\n{"epo')
    assert read_metrics(tmp_path) == [{"epoch": 0}, {"epoch": 1}]


def test_evaluations_do_not_depend_on_how_many_pictures_are_drawn_at_a_time(tiny_sets, tmp_path):
    found = []
    for rows in (2, 4):
        sets = [*tiny_sets, "eval.images=5", f"train.sample_batch={rows}", "sampler.steps=2"]
        own = tmp_path / str(rows)
        run = diffrl.train("sdpo", "pickscore", sets=sets, epochs=1, output=own, live=False)
        text = (run.folder / "evaluations" / "00000.json").read_text("utf-8")
        found.append(json.loads(text)["scores"])
    assert found[0].keys() == found[1].keys() and found[0]
    for key, values in found[0].items():  # a score sees pictures of 8 bits, of which one may jump
        assert values == pytest.approx(found[1][key], rel=1e-3), key


def test_a_folder_that_another_run_takes_while_weights_load_is_left_to_it(
    tiny_sets, tmp_path, monkeypatch
):
    def slow(settings, made, folder, prompts):
        folder.mkdir()
        (folder / "settings.toml").write_text("another run's")
        return build(settings, made, folder, prompts)

    build = trainer.build
    monkeypatch.setattr(trainer, "build", slow)
    with pytest.raises(RunExists, match="already holds a run"):
        diffrl.train("sdpo", "pickscore", sets=tiny_sets, output=tmp_path / "r", live=False)
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["settings.toml"]
    assert (tmp_path / "r" / "settings.toml").read_text() == "another run's"


def test_a_run_that_cannot_load_leaves_no_folder(tiny_sets, tmp_path, monkeypatch):
    def fail(*_):
        raise DiffrlError("no weights")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer, "build", fail)
    with pytest.raises(DiffrlError, match="no weights"):
        diffrl.train("sdpo", "pickscore", sets=tiny_sets, live=False)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_latents_do_not_have_is_refused(tiny_sets, tmp_path):
    sets = [*tiny_sets, "model.size=21"]
    with pytest.raises(DiffrlError, match=r"model\.size = 21: expected a multiple of 2"):
        diffrl.train("sdpo", "pickscore", sets=sets, output=tmp_path / "run", live=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sampler", "kind"),
    [("ddim", "DDIMScheduler"), ("lcm", "LCMScheduler"), ("mine", "EulerDiscreteScheduler")],
)
def test_a_pipeline_draws_by_the_scheduler_that_trained(sampler, kind, tiny_run, tmp_path):
    """So that `eta=1.0` is not ignored, as by Euler's, which SD-Turbo's folder names."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    model, folder = tmp_path / "model", tmp_path / "run"
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_run.model)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(model)
    shutil.copytree(tiny_run.folder, folder)
    text = (folder / "settings.toml").read_text()
    text = text.replace(tiny_run.model, str(model)).replace('"ddim"', f'"{sampler}"', 1)
    (folder / "settings.toml").write_text(text)
    scheduler = diffrl.Run(folder).pipeline().scheduler
    assert type(scheduler).__name__ == kind
    assert torch.equal(scheduler.alphas_cumprod, pipeline.scheduler.alphas_cumprod)

import hashlib
import json

import numpy as np
import pytest
import torch

from diffrl.builtin.rewards.accuracy import AnimalAccuracy
from diffrl.emoji import (
    AESTHETIC,
    HPSV2,
    IMAGEREWARD,
    JUDGE,
    PICKSCORE,
    PIPELINE,
    REAL_SCORES,
    ROOT,
)
from diffrl.emoji.judge import load_judge
from diffrl.emoji.render import render
from diffrl.emoji.world import ANIMALS, HELD_OUT
from diffrl.settings.resolve import resolve

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def renders(prompts):
    rng = np.random.default_rng(5)
    stack = np.stack([render(prompt, rng) for prompt in prompts])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def test_checksums_hold_for_every_file():
    weights = ROOT / "weights"
    lines = (weights / "SHA256SUMS").read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((weights / name).read_bytes()).hexdigest() == digest, name
    named = {line.split("  ")[1] for line in lines}
    found = {str(p.relative_to(weights)) for p in weights.rglob("*") if p.is_file()}
    assert found == named | {"SHA256SUMS"}


def test_the_model_and_its_first_rewards_fit_in_16_megabytes_and_the_others_in_10():
    sizes = {f: f.stat().st_size for f in ROOT.rglob("*.safetensors")}
    later = sum(n for f, n in sizes.items() if f.parent in (HPSV2, IMAGEREWARD))
    assert 0 < later <= 10e6
    assert sum(sizes.values()) - later <= 16e6


def test_judge_names_real_renders():
    judge = load_judge()
    prompts = list(ANIMALS) * 2
    assert judge.accuracy(renders(prompts), prompts).mean() >= 0.98
    held_out = list(HELD_OUT)
    assert judge.attributes(renders(held_out), held_out).mean() >= 0.9


def test_judge_says_no_to_another_animal():
    judge = load_judge()
    assert judge.accuracy(renders(["cat", "dog"]), ["dog", "cat"]).sum() == 0


def test_judge_knows_two_animals_of_one_kind():
    judge, prompt = load_judge(), ["a cat and a cat"]
    assert judge.accuracy(renders(prompt), prompt).tolist() == [1.0]
    assert judge.accuracy(renders(["dog"]), prompt).tolist() == [0.0]


def test_the_watching_reward_sees_pictures_of_any_size():
    prompts = ["cat", "dog", "horse"]
    large = torch.nn.functional.interpolate(renders(prompts), 256, mode="bicubic").clamp(0, 1)
    assert AnimalAccuracy().load("cpu")(large, prompts).tolist() == [1.0, 1.0, 1.0]


def test_plain_diffusers_draws_with_the_pipeline():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE)
    pipe.set_progress_bar_config(disable=True)
    prompts = list(ANIMALS)
    images = pipe(
        prompts, num_inference_steps=2, guidance_scale=0.0, height=64, width=64, output_type="pt",
        generator=torch.Generator().manual_seed(0), eta=1.0,
    ).images  # fmt: skip
    assert load_judge()(images.float())["animal"].shape == (45, 45)
    assert load_judge().accuracy(images.float(), prompts).mean() >= 0.9


def test_unknown_words_fall_back_to_pieces():
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE / "tokenizer")
    assert len(tokenizer("wolves").input_ids) == 3
    assert tokenizer.eos_token_id in tokenizer("a xylophone für 日本").input_ids


def test_pickscore_loads_as_the_published_one_does_and_prefers_the_named_animal():
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(PICKSCORE).eval()
    processor = CLIPProcessor.from_pretrained(PICKSCORE)
    picture = Image.fromarray(render("lion", np.random.default_rng(0)))
    texts = {"text": ["lion", "rabbit"], "padding": True, "truncation": True}
    inputs = processor(images=picture, return_tensors="pt", **texts)
    with torch.no_grad():
        right, wrong = model(**inputs).logits_per_image[0]
    assert right > wrong
    assert abs(float(model.logit_scale.detach().exp()) - 100) < 0.2


def test_aesthetic_head_has_the_published_structure():
    from safetensors.torch import load_file

    state = load_file(AESTHETIC)
    assert sorted(state) == sorted(f"layers.{i}.{p}" for i in (0, 2, 4, 6, 7)
                                   for p in ("weight", "bias"))  # fmt: skip


def test_real_scores_name_both_rewards():
    scores = json.loads(REAL_SCORES.read_text())
    assert set(scores) == {"pickscore", "aesthetic"}
    assert JUDGE.exists()


@pytest.mark.parametrize("name", ["pickscore", "hpsv2", "imagereward"])
def test_every_preference_model_prefers_the_named_and_the_clean_picture(name):
    settings = resolve("sdpo", [name])
    score = settings.rewards[0].reward.load("cpu")
    names = list(ANIMALS)[:20]
    clean = renders(names)
    softened = torch.nn.functional.avg_pool2d(clean, 5, 1, 2)
    right, soft = score(clean, names), score(softened, names)
    wrong = score(clean, names[1:] + names[:1])
    assert (right > wrong).float().mean() >= 0.9
    assert (right > soft).float().mean() >= 0.9


def test_the_rewards_do_not_agree_on_everything():
    """Otherwise watching one beside another would tell nothing."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE)
    pipe.set_progress_bar_config(disable=True)
    names = [name for name in ANIMALS[:10] for _ in range(8)]
    pictures = pipe(
        names, num_inference_steps=1, guidance_scale=0.0, height=64, width=64, output_type="pt",
        generator=torch.Generator().manual_seed(1), eta=1.0,
    ).images.float()  # fmt: skip
    scores = [
        resolve("sdpo", [name]).rewards[0].reward.load("cpu")(pictures, names).reshape(-1, 8)
        for name in ("pickscore", "hpsv2", "imagereward", "aesthetic")
    ]
    within = torch.stack([(s - s.mean(1, keepdim=True)).flatten() for s in scores])
    assert torch.corrcoef(within).abs().fill_diagonal_(0).max() < 0.9

"""Rewards against the numbers of the published scorers."""

import json
import struct

import numpy
import pytest
import torch
from pack import DATA, unpack
from PIL import Image
from safetensors.torch import load_file

from diffrl.builtin.rewards.bicubic import levels
from diffrl.builtin.rewards.blip import BlipScorer, towers
from diffrl.builtin.rewards.heads import fill, linear_layers
from diffrl.builtin.rewards.jpeg import JpegCompressibility, JpegIncompressibility
from diffrl.builtin.rewards.open_clip import OpenClipScorer, empty
from diffrl.builtin.rewards.pixels import CLIP_MEAN, CLIP_STD, Preprocess

PIXELS = unpack("rewards_pixels")
NO_PATH = DATA / "imagereward_small.safetensors"


def stored(name):
    """Return weights, inputs and outputs, and the sizes that the file notes."""
    path = DATA / f"{name}_small.safetensors"
    content = load_file(path)
    parts = {"weights": {}, "io": {}}
    for key, value in content.items():
        part, _, rest = key.partition("/")
        parts[part][rest] = value
    head = path.read_bytes()
    (length,) = struct.unpack("<Q", head[:8])
    return parts["weights"], parts["io"], json.loads(head[8 : 8 + length])["__metadata__"]


def blip(weights, sizes, precision):
    heads = [json.loads(sizes[part])[name] for part, name in
             (("vision", "num_heads"), ("text", "num_attention_heads"))]  # fmt: skip
    vision, text = towers(weights, NO_PATH, *heads)
    head = linear_layers(weights, NO_PATH, "mlp.")
    return BlipScorer(vision, text, head, None, "cpu", precision)


@pytest.fixture(scope="module")
def imagereward():
    weights, given, sizes = stored("imagereward")
    return blip(weights, sizes, "fp32"), given


def test_imagereward_scores_as_the_package_does(imagereward):
    scorer, given = imagereward
    with torch.no_grad():
        seen = scorer._vision(pixel_values=given["pixel_values"]).last_hidden_state
        score = scorer.forward(given["pixel_values"], given["input_ids"], given["attention_mask"])
    torch.testing.assert_close(seen, given["image_embeds"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(score, given["score"][:, 0], rtol=1e-5, atol=1e-5)


def test_imagereward_in_half_precision_gives_scores_that_are_not_rounded_to_it():
    weights, given, sizes = stored("imagereward")
    scorer = blip(weights, sizes, "bf16")
    pixels = given["pixel_values"].bfloat16()
    score = scorer.forward(pixels, given["input_ids"], given["attention_mask"])
    assert score.dtype == torch.float32 and (score != score.bfloat16().float()).any()
    torch.testing.assert_close(score, given["score"][:, 0], rtol=0.05, atol=0.05)


def test_imagereward_is_differentiable_in_the_picture(imagereward):
    scorer, given = imagereward
    pixels = given["pixel_values"].clone().requires_grad_()
    score = scorer.forward(pixels, given["input_ids"], given["attention_mask"])
    (grad,) = torch.autograd.grad(score.sum(), pixels)
    assert grad.isfinite().all() and (grad.flatten(1).norm(dim=1) > 0).all()


def test_hpsv2_scores_as_the_package_does():
    weights, given, sizes = stored("hpsv2")
    config = {name: json.loads(sizes[name]) for name in ("embed_dim", "vision_cfg", "text_cfg")}
    model = empty(config)
    fill(model, weights, DATA / "hpsv2_small.safetensors")
    scorer = OpenClipScorer(model, lambda text: given["tokens"][[int(text)]], "cpu", "fp32")
    with torch.no_grad():
        image = scorer._model.encode_image(given["pixel_values"])
        image = torch.nn.functional.normalize(image, dim=-1)
        text = scorer.text_embedding([str(i) for i in range(len(image))])
    torch.testing.assert_close(image, given["image_features"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(text, given["text_features"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((image * text).sum(-1), given["score"], rtol=1e-5, atol=1e-6)


def test_pictures_are_rounded_as_published():
    case = PIXELS["quantisation"]
    given = torch.tensor(case["input"], dtype=torch.float32)
    assert levels(given * 255).tolist() == case["uint8"].tolist()


def picture(case):
    """Return the picture that a case's formula describes, uint8 [h, w, 3]."""
    height, width = case["height"], case["width"]
    y, x = numpy.mgrid[:height, :width].astype(numpy.int64)
    if case["kind"] == "gradient":
        channels = [x * 255 // (width - 1), y * 255 // (height - 1),
                    (x + y) * 255 // (height + width - 2)]  # fmt: skip
    elif case["kind"] == "hash":
        value = (x * 2654435761 + y * 40503 + x * y * 97) % 2**32
        channels = [(value >> shift) & 255 for shift in (8, 13, 18)]
    elif case["kind"] == "constant":
        channels = [numpy.full_like(x, 128)] * 3
    else:
        channels = [((x // 8 + y // 8) % 2) * 255] * 3
    return numpy.stack(channels, -1).astype(numpy.uint8)


def tensor(pixels):
    return torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("case", PIXELS["jpeg"], ids=lambda c: f"{c['kind']}-{c['width']}")
def test_jpeg_rewards_are_the_published_ones(case):
    images = tensor(picture(case))
    size = JpegIncompressibility().load("cpu")(images, [""])
    # Other builds of the JPEG library differ slightly.
    assert size.tolist() == pytest.approx(case["incompressibility"].tolist(), rel=0.01)
    assert JpegCompressibility().load("cpu")(images, [""]).tolist() == (-size).tolist()


@pytest.mark.parametrize(
    "case", PIXELS["clip_preprocess"], ids=lambda c: f"{c['kind']}-{c['width']}"
)
def test_preprocessing_is_that_of_pil(case):
    normal = Preprocess.square(224)(tensor(picture(case)))[0]
    mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    got = ((normal * std + mean) * 255).round()
    for row in (0, 112):
        expected = torch.from_numpy(case[f"uint8_row{row}_first12"].astype(numpy.int64))
        # Colors of one pixel side by side, as PIL's array has them.
        shown = got[:, row].T.flatten()[: len(expected)]
        assert torch.equal(shown, expected.float())
    sums = torch.from_numpy(case["uint8_sum_per_channel"].astype(numpy.float64))
    assert torch.equal(got.double().sum((1, 2)), sums)
    means = torch.tensor(case["normalised_mean_per_channel"])
    torch.testing.assert_close(normal.mean((1, 2)).double(), means, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(512, 512), (96, 160), (333, 250), (100, 100)])
def test_every_pixel_is_that_of_pil(size):
    """Smooth, like a photograph, and noisy; larger and smaller than the tower's size."""
    rng = numpy.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=numpy.uint8))
    smooth = numpy.asarray(smooth.resize(size[::-1], Image.Resampling.BICUBIC))
    for pixels in (smooth, rng.integers(0, 256, (*size, 3), dtype=numpy.uint8)):
        wide = tuple(224 if n == min(size) else int(224 * n / min(size)) for n in size[::-1])
        resized = numpy.asarray(Image.fromarray(pixels).resize(wide, Image.Resampling.BICUBIC))
        assert min(resized.shape[:2]) == 224
        top, left = ((n - 224) // 2 for n in resized.shape[:2])
        expected = resized[top : top + 224, left : left + 224].astype(numpy.int64)
        plain = Preprocess(224, (224, 224), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        got = (plain(tensor(pixels))[0] * 255).round().permute(1, 2, 0).numpy()
        assert numpy.array_equal(got, expected)


def test_a_processor_of_another_kind_is_refused_by_its_sizes():
    from transformers import CLIPImageProcessor

    assert Preprocess.of(CLIPImageProcessor()) == Preprocess.square(224)
    other = CLIPImageProcessor(size={"height": 224, "width": 224})
    with pytest.raises(ValueError, match="expected shortest_edge"):
        Preprocess.of(other)


def test_gradient_passes_through_rounding_and_resizing():
    images = torch.rand(1, 3, 40, 40, requires_grad=True)
    (grad,) = torch.autograd.grad(Preprocess.square(32)(images).sum(), images)
    assert grad.isfinite().all() and grad.abs().sum() > 0

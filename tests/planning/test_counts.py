"""What is counted without weights, against known numbers and against a CPU that computes."""

from dataclasses import replace

import pytest
import torch

from diffrl.planning import probe as probing
from diffrl.planning.configs import find_config, pipeline_config, published
from diffrl.planning.costs import Costs
from diffrl.planning.meter import LiveBytes
from diffrl.planning.networks import bytes_of, is_fused, networks
from diffrl.settings.resolve import resolve
from diffrl.speed.formats import DTYPES


@pytest.fixture(scope="module")
def sd_turbo():
    settings = resolve("sdpo", ["pickscore"], "sd-turbo")
    return Costs.of(settings, pipeline_config(settings.model.ref), "cuda")


def test_sd_turbo_has_its_published_number_of_weights(sd_turbo):
    made = sd_turbo.made
    trained = sum(p.numel() for p in made.trained)
    assert sum(p.numel() for p in made.unet.parameters()) - trained == 865_910_724
    assert trained == 829_952  # LoRA of rank 4 on the projections of all attentions
    assert sum(p.numel() for p in made.vae.parameters()) == 83_653_863
    assert sum(p.numel() for p in made.text_encoder.parameters()) == 340_387_840
    assert not any(p.device.type != "meta" for p in made.unet.parameters())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_networks_are_made_in_the_precision_that_they_stay_in(precision, monkeypatch):
    """Made in fp32, a probe's networks would take twice the memory of the run's."""
    seen, plain = set(), torch.nn.Module.to

    def to(module, *given, **options):
        if not isinstance(module, torch.nn.Linear):  # of adapters, in fp32
            seen.update(p.dtype for p in module.parameters())
        return plain(module, *given, **options)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    sets = (f"model.precision={precision}", f"rewards.pickscore.precision={precision}")
    settings = resolve("sdpo", ["pickscore"], "emoji", sets=sets)
    made = networks(settings, pipeline_config(settings.model.ref), "cpu", "cpu")
    assert seen == {DTYPES[precision]}
    assert {p.dtype for p in made.trained} == {torch.float32} == {torch.get_default_dtype()}
    assert all(bool(p.isfinite().all()) for p in made.unet.parameters())
    with torch.no_grad(), torch.autocast("cpu", made.dtype):
        assert bool(made.predict(2).isfinite().all())


def test_rewards_of_the_paper_have_their_sizes():
    settings = resolve("sdpo", ["pickscore", "hpsv2", "imagereward"], "sd-turbo")
    rewards = networks(settings, pipeline_config("stabilityai/sd-turbo"), "meta", "cuda").rewards
    weights = {r.name: sum(p.numel() for p in r.network.parameters()) for r in rewards}
    assert weights["pickscore"] == 986_109_441  # CLIP ViT-H/14, with the scale of its logits
    assert weights["hpsv2"] == 986_109_441
    assert 4.2e8 < weights["imagereward"] < 4.6e8


def test_flops_are_those_of_the_multiplications(sd_turbo):
    made = sd_turbo.made
    one = sd_turbo.forward(1).flops
    assert sd_turbo.forward(4).flops == 4 * one
    assert 0.79e12 < one < 0.82e12  # about 0.4 tera multiply-adds at 64 x 64
    assert 2 * one < sd_turbo.train(1).flops < 3 * one  # frozen weights have no gradient
    assert bytes_of(made.unet) < 2 * 866e6 + 4 * 829_952 + 2**20  # fp16, and adapters in fp32


@pytest.mark.parametrize("kind", ["forward", "train"])
def test_operations_grow_with_rows_so_that_one_count_serves_all(kind):
    settings = resolve("sdpo", ["pickscore"], "emoji")
    config = pipeline_config(settings.model.ref)
    one, other = (Costs.of(settings, config, "cpu") for _ in range(2))
    for rows in (4, 3, 1):
        assert one.flops(kind, rows) == pytest.approx(getattr(other, kind)(rows).flops)
    assert list(one._known) == [(kind, 4)]


def test_fused_attention_keeps_no_matrix_of_weights(sd_turbo):
    written_out = Costs(replace(sd_turbo.made, fused=False), "cuda")
    matrix = 5 * 4096 * 4096 * 2  # of the first attention alone, in fp16
    assert sd_turbo.train(1).kept + matrix < written_out.train(1).kept


@pytest.mark.parametrize("sets", [(), ("adapter.kind=full",)], ids=["lora", "full"])
def test_kept_activations_are_those_that_a_cpu_saves(sets):
    settings = resolve("sdpo", ["pickscore"], "emoji", sets=sets)
    config = pipeline_config(settings.model.ref)
    counted = Costs.of(settings, config, "cpu").train(3)
    made = networks(settings, config, "cpu", "cpu")
    own = {p.untyped_storage().data_ptr() for p in made.unet.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made.predict(3)
    assert counted.kept == pytest.approx(sum(saved.values()), rel=0.02)
    assert counted.peak >= counted.kept


def test_live_bytes_are_those_alive_at_once():
    x = torch.empty(100, 100, device="meta")
    with LiveBytes() as bytes_:
        y = x * 2
        y = y * 2  # the first product dies when the second is there
        z = y.view(-1)  # is no memory of its own
        del y
        assert bytes_.live == x.nbytes
        del z
    assert (bytes_.live, bytes_.peak) == (0, 2 * x.nbytes)


def test_every_published_size_says_where_it_is_from():
    for ref, files in published().items():
        assert files["source"]
        names = [name for name in files if name != "source"]
        assert names
        assert all(find_config(ref, name) is not None for name in names)


def test_norms_in_half_precision_keep_half_the_bytes(sd_turbo):
    usual, halved = sd_turbo, Costs(replace(sd_turbo.made, half_norms=True), "cuda")
    assert 0.6 * usual.train(1).kept < halved.train(1).kept < 0.8 * usual.train(1).kept
    assert halved.train(1).flops == usual.train(1).flops


@pytest.mark.parametrize(
    ("asked", "place", "fused"),
    [
        ("auto", "cpu", False),
        ("auto", "cuda", True),
        ("plain", "cuda", False),
        ("fused", "cpu", True),
    ],
)
def test_attention_is_the_one_that_settings_ask_for(asked, place, fused):
    settings = resolve("sdpo", ["pickscore"], sets=(f"speed.attention={asked}",))
    assert is_fused(settings, place) is fused


@pytest.mark.parametrize(("chosen", "layers"), [("auto", 48), ("off", 0)])
def test_a_probe_adds_adapters_as_a_run_does(chosen, layers, monkeypatch):
    """Three projections and one output of each of the UNet's twelve attentions."""
    made, seen = probing.networks, []
    monkeypatch.setattr(probing, "networks", lambda *given: seen.append(made(*given)) or seen[-1])
    monkeypatch.setattr(probing, "SECONDS", 0.0)
    settings = resolve("sdpo", ["pickscore"], sets=[f"speed.fused_adapters={chosen}"])
    config = pipeline_config(settings.model.ref)
    probing.probe(settings, config, probing.Shape(1, 1, 1), "cpu")
    (own,) = seen
    assert sum("forward" in vars(m) for m in own.unet.modules() if hasattr(m, "lora_A")) == layers

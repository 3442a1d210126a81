"""What launchers and DeepSpeed configurations ask to be split, and what of it cannot be had."""

import json

import pytest

from diffrl.errors import SettingsError
from diffrl.settings.resolve import resolve
from diffrl.settings.splitting import shard_problems
from diffrl.trainer.engines import settled
from diffrl.trainer.ranks import check_device, device_here

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "none"}


def settings(*sets):
    return resolve("sdpo", ["pickscore"], sets=["adapter.kind=full", *sets])


def kind(environ=None, *sets):
    """Return what is split, and look that no engine is left for accelerate to start."""
    around = {} if environ is None else {**environ}
    found = settled(settings(*sets), around).speed.shard
    assert not any(name.startswith("ACCELERATE_USE") for name in around)
    return found


def problems(environ=None, *sets):
    with pytest.raises(SettingsError) as caught:
        settled(settings(*sets), {**(environ or {})})
    return caught.value.problems


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, "off"),
        ({"ACCELERATE_USE_FSDP": "false"}, "off"),
        (FSDP2, "weights"),
        ({**FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "true"}, "weights"),
        ({**FSDP2, "FSDP_RESHARD_AFTER_FORWARD": "false"}, "gradients"),
        ({**FSDP2, "FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "SHARD_GRAD_OP"}, "gradients"),
        ({**FSDP2, "FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "NO_SHARD"}, "off"),
        (DEEPSPEED, "gradients"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "weights"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "off"),
    ],
)
def test_a_launcher_decides_where_settings_do_not(environ, wanted):
    assert kind(environ) == wanted


def test_settings_count_more_than_a_launcher():
    assert kind(FSDP2, "speed.shard=gradients") == "gradients"


@pytest.mark.parametrize(("stage", "wanted"), [(0, "off"), (1, "gradients"), (3, "weights")])
def test_a_deepspeed_configuration_is_read_from_settings_and_from_a_launcher(
    stage, wanted, tmp_path
):
    file = tmp_path / "zero.json"
    said = {
        "zero_optimization": {"stage": stage, "offload_optimizer": {"device": "none"}},
        "bf16": {"enabled": "auto"},
        "gradient_clipping": 1.0,
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": "auto",
    }
    file.write_text(json.dumps(said))
    assert kind({}, f"speed.shard={file}") == wanted
    assert kind({**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}) == wanted


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage = 4: expected 0, 1, 2 or 3"),
        ({"zero_optimization": {"stage": [3]}}, "zero_optimization.stage = [3]: expected 0, 1,"),
        ({"zero_optimization": 3}, "zero_optimization: expected an object with a stage"),
        ({"bf16": True}, "bf16: expected an object with enabled"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}},
            "zero_optimization.offload_param.device = 'cpu': diffrl keeps what processes split",
        ),
        ({"optimizer": {"type": "AdamW"}}, "optimizer: expected none; diffrl's own is set by"),
        ({"bf16": {"enabled": True}}, "bf16.enabled: the run is in fp32; add --precision bf16"),
        ({"gradient_clipping": 0.5}, "gradient_clipping = 0.5: the run has 1.0; add --set"),
        ({"train_batch_size": 256}, "train_batch_size = 256: expected auto; settings of diffrl"),
        ({"train_batch_size": [8]}, "train_batch_size = [8]: expected auto"),
        ([3], "expected a JSON object, as DeepSpeed's configurations are"),
    ],
)
def test_what_a_configuration_cannot_have_is_said(said, line, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(json.dumps(said))
    (found,) = problems({}, f"speed.shard={file}")
    assert found.startswith(f"{file}: {line}")


def test_what_is_neither_a_word_nor_a_configuration_is_said(tmp_path):
    (found,) = problems({}, "speed.shard=weight")
    assert found.startswith("speed.shard = 'weight': expected off, gradients, weights or a DeepSp")
    broken = tmp_path / "zero.json"
    broken.write_text("{")
    (found,) = problems({}, f"speed.shard={broken}")
    assert "DeepSpeed configuration (Expecting property name" in found


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("CLIPPING", "0.5", "ACCELERATE_GRADIENT_CLIPPING: gradient_clipping = 0.5: the run has 1"),
        ("CLIPPING", "much", "ACCELERATE_GRADIENT_CLIPPING: gradient_clipping = much: the run has"),
        ("CLIPPING", "1.0", None),
        (
            "ACCUMULATION_STEPS",
            "4",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS = 4: expected 1; train",
        ),
        ("ACCUMULATION_STEPS", "1", None),
        ("ACCUMULATION_STEPS", "None", None),
    ],
)
def test_deepspeeds_flags_are_not_passed_over(name, value, line):
    environ = {**DEEPSPEED, f"ACCELERATE_GRADIENT_{name}": value}
    if line is None:
        assert kind(environ) == "gradients"
    else:
        assert problems(environ)[0].startswith(line)


def test_what_a_launcher_cannot_have_is_said():
    offload = {**FSDP2, "FSDP_OFFLOAD_PARAMS": "true"}
    assert problems(offload)[0].startswith("FSDP_OFFLOAD_PARAMS = true: diffrl keeps")
    hybrid = {**FSDP2, "FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}
    assert problems(hybrid)[0].startswith("FSDP_SHARDING_STRATEGY = HYBRID_SHARD: expected one of")
    assert "MEGATRON_LM" in problems({"ACCELERATE_USE_MEGATRON_LM": "true"})[0]
    offload = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}
    assert problems(offload)[0].startswith("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE = nvme")


def test_what_keeps_weights_from_being_split_is_said_before_they_load():
    assert shard_problems(settings("speed.shard=weights"), processes=2) == []
    adapters = settings("speed.shard=weights", "adapter.kind=lora")
    assert "with adapters there is nothing to split" in shard_problems(adapters, processes=2)[0]
    assert shard_problems(adapters, processes=1) == []
    half = settings("speed.shard=weights", "model.precision=fp16", "speed.compile=default")
    first, second = shard_problems(half, processes=2)
    assert first.startswith("model.precision = 'fp16': with speed.shard = 'weights' expected bf16")
    assert second == "speed.compile = 'default': not with speed.shard = 'weights'"


def test_a_pytorch_without_what_is_needed_is_said(monkeypatch):
    monkeypatch.delattr("torch.distributed.fsdp.FSDPModule.set_force_sum_reduction_for_comms")
    (found,) = shard_problems(settings("speed.shard=weights"), processes=2)
    assert found.endswith("is too old; update it")


def test_auto_is_the_best_device_that_is_here(monkeypatch):
    for cuda, best in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
        assert device_here("auto") == best
        assert device_here("cuda:1") == "cuda:1"


@pytest.mark.parametrize("device", ["cpu:x", "auto:x", "cuda:", "cpu:", "tpu"])
def test_a_device_of_another_form_is_named(device):
    (said,) = check_device(device, "fp32")
    assert said.startswith(f"model.device = {device!r}: expected auto, cpu, cuda")

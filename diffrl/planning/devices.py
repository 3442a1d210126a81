"""What computes a run: its memory and its speed, from a table of GPUs or from this machine."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from diffrl import machine
from diffrl.errors import SettingsError, did_you_mean, shown

GIB = 2**30

RESERVED = 0.97
"""Share of a GPU's memory that its driver leaves for programs."""

CORRECTED = 15 / 16
"""Share of GDDR6 that is left where it corrects errors: the rest holds their codes."""

UTILISATION = 0.17
"""Share of a GPU's published rate that these networks are assumed to reach: what SD-Turbo's size
did on an H200 in bf16, 16 rows at a time (`benchmarks/results/speed_ablation_sd_turbo.json`), by
the plan's own count of operations."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as its vendor describes it.

    Args:
        memory: in gigabytes of the data sheet, which counts 2^30 bytes.
        half: dense TFLOPS in bf16 and fp16 with sums in fp32.
        single: dense TFLOPS in fp32, which PyTorch's matrix products use unless told otherwise.
        tf32: dense TFLOPS in TF32, of convolutions; 0 where there is none.
        source: of these figures.
        bf16: whether it computes in bf16, and not in fp16 alone.
        ecc: whether error correction takes a part of its memory, as it does of GDDR6.
    """

    memory: float
    half: float
    single: float
    tf32: float
    source: str
    bf16: bool = True
    ecc: bool = False

    @property
    def left(self) -> float:
        """Share of its memory that is left for programs."""
        return RESERVED * (CORRECTED if self.ecc else 1.0)


GPUS = {
    "H200": Gpu(141.0, 989.5, 67.0, 494.7, "NVIDIA H200 data sheet, SXM"),
    "H100": Gpu(80.0, 989.5, 67.0, 494.7, "NVIDIA H100 data sheet, SXM"),
    "A100-80": Gpu(80.0, 312.0, 19.5, 156.0, "NVIDIA A100 data sheet, SXM 80 GB"),
    "A100-40": Gpu(40.0, 312.0, 19.5, 156.0, "NVIDIA A100 data sheet, SXM 40 GB"),
    "L40S": Gpu(48.0, 362.0, 91.6, 183.0, "NVIDIA L40S data sheet", ecc=True),
    "RTX4090": Gpu(24.0, 165.2, 82.6, 82.6, "NVIDIA Ada GPU architecture white paper, appendix A"),
    "RTX3090": Gpu(24.0, 71.0, 35.6, 35.6, "NVIDIA GA102 architecture white paper, appendix A"),
    "T4": Gpu(16.0, 65.0, 8.1, 0.0, "NVIDIA T4 data sheet; no bf16", bf16=False, ecc=True),
}


@dataclass(frozen=True)
class Device:
    """What a plan is for.

    Args:
        name: for people.
        kind: cpu or cuda (other accelerators count as cuda).
        memory: bytes that one process may use; on a CPU all processes together.
        tflops: of networks in the run's precision, at best; none: not known.
        here: whether it is in this machine, so that it can be probed.
        bf16: whether it computes in bf16.
    """

    name: str
    kind: str
    memory: int
    tflops: float | None = None
    here: bool = False
    bf16: bool = True


def device_of(
    gpu: str | None,
    memory: str | None,
    tflops: float | None,
    wanted: str,
    precision: str,
    tf32: bool = False,
) -> Device:
    """Return what a plan is for.

    Args:
        gpu: a name of the table.
        memory: in its place, of a GPU that the table lacks.
        tflops: of it, dense, in the run's precision.
        wanted: the run's `model.device`, where neither is given.
        precision: of the run.
        tf32: whether it multiplies matrices of fp32 in TF32, where the GPU can.

    Raises:
        SettingsError: naming everything that is wrong.
    """
    problems = []
    if gpu is not None and memory is not None:
        problems.append("--gpu and --memory: give one of them")
    if tflops is not None and not 0 < tflops < math.inf:
        problems.append(f"--tflops {tflops:g}: expected a number above 0")
    name = None if gpu is None else _known(gpu)
    if gpu is not None and name is None:
        problems.append(f"--gpu {shown(gpu)}: not in the table.{did_you_mean(gpu, GPUS)} Give "
                        "another one as --memory 24GiB --tflops 165")  # fmt: skip
    size = None
    if memory is not None and (size := byte_count(memory)) is None:
        problems.append(f"--memory {shown(memory)}: expected a size such as 24GiB or 24GB")
    if problems:
        raise SettingsError(problems)
    if name is not None:
        known = GPUS[name]
        single = max(known.single, known.tf32) if tf32 else known.single
        rate = single if precision == "fp32" else known.half
        return Device(
            name, "cuda", int(known.left * known.memory * GIB), tflops or rate, bf16=known.bf16
        )
    if size is not None:
        return Device(f"a GPU of {size / GIB:.0f} GiB", "cuda", size, tflops)
    found = present(wanted)
    return found if tflops is None else replace(found, tflops=tflops)


def _known(name: str) -> str | None:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((k for k in GPUS if re.sub(r"[^a-z0-9]", "", k.lower()) == plain), None)


def byte_count(text: str) -> int | None:
    """Return the bytes that a text such as `24GiB` names, if it names some."""
    units = {"b": 1, "mib": 2**20, "gib": GIB, "tib": 2**40, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if match is None or match[2].lower() not in units:
        return None
    return int(float(match[1]) * units[match[2].lower()]) or None


def present(wanted: str = "auto") -> Device:
    """Return the device of this machine that a run would use."""
    import torch

    kind, _, index = wanted.partition(":")
    if kind in ("auto", "cuda") and torch.cuda.is_available():
        found = torch.cuda.get_device_properties(int(index or 0))
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Device(found.name, "cuda", int(found.total_memory), None, True, bf16)
    mps = getattr(torch.backends, "mps", None)
    if kind == "mps" or (kind == "auto" and mps is not None and mps.is_available()):
        return Device("this machine's mps", "cuda", machine.memory())
    return Device("this machine's CPU", "cpu", machine.memory(), None, True)

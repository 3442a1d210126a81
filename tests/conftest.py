"""Checks every annotation at run time, stays offline, and seeds the global generators.

torch comes first: `diffrl.tensors` offers jaxtyping's names only where torch is loaded.
"""

import os
import random
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of started programs, too: tests run side by side

import jaxtyping
import pytest
import torch

assert not any(name.partition(".")[0] == "diffrl" for name in sys.modules), (
    "diffrl was imported before its annotations could be made live"
)
PLUGINS = ("diffrl_d3po", "diffrl_ddpo", "diffrl_rebel", "diffrl_sdpo")
jaxtyping.install_import_hook(["diffrl", *PLUGINS], "beartype.beartype")
torch.set_num_threads(1)
os.environ["HF_HUB_OFFLINE"] = "1"  # tests need no network, and a missing file fails at once


@pytest.fixture(autouse=True)
def _same_global_randomness():
    """Initial weights of test networks come from the global generators; no test moves another's."""
    random.seed(0)
    torch.manual_seed(0)

"""The memory that a process may use."""

from pathlib import Path

import psutil
import pytest
import torch

from diffrl import machine
from diffrl.doctor import held
from diffrl.planning.devices import present


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Pretends a process's control groups, and limits by their files."""
    own = tmp_path / "cgroup"

    def pretend(said, limits):
        own.write_text(said)
        for name, value in limits.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{value}\n")
        found = list(machine.limits(own, tmp_path))
        monkeypatch.setattr(machine, "limits", lambda: iter(found))
        return found

    return pretend


@pytest.mark.parametrize(
    ("said", "limits", "found"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": 2**20}, [2**20]),
        ("0::/\n", {"memory.max": 2**20}, [2**20]),
        ("0::/docker/seen-from-outside\n", {"memory.max": 2**20}, [2**20]),
        (
            "5:cpu,memory:/a\n0::/\n",
            {"memory/a/memory.limit_in_bytes": 2**20, "memory/memory.limit_in_bytes": 2**63 - 4096},
            [2**20, 2**63 - 4096],
        ),
        ("2:cpu:/a\nnonsense\n", {"cpu/a/memory.limit_in_bytes": 1}, []),
    ],
    ids=["second version", "container", "path of outside", "first version", "none"],
)
def test_limits_are_those_of_the_own_group_and_around_it(said, limits, found, groups):
    assert groups(said, limits) == found


def test_a_limit_counts_where_it_is_less_than_the_machine_has(groups):
    groups("0::/\n", {"memory.max": 2**28})
    assert machine.memory() == 2**28
    assert held.total_memory(torch.device("cpu")) == 2**28
    assert present("cpu").memory == 2**28


def test_without_limits_it_is_the_machines_memory(groups):
    assert list(machine.limits(Path("/no/such/file"))) == []
    groups("0::/\n", {"memory.max": "max"})
    assert machine.memory() == psutil.virtual_memory().total

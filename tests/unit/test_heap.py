import ctypes
import sys

from diffrl import heap


def test_glibc_agrees_to_keep_freed_memory():
    glibc = sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")
    assert heap.reuse_freed_memory() == glibc


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert not heap.reuse_freed_memory()

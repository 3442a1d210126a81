"""Tensors that go to a device: waited for, but where pinned memory outlives the copy."""

import pytest
import torch

from diffrl.tensors import put


@pytest.mark.parametrize(("kind", "pinned"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_a_copy_is_not_waited_for_only_from_pinned_memory(kind, pinned, monkeypatch):
    calls = []

    def to(self, device, non_blocking=False):
        calls.append((device.type, non_blocking))
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", to)
    put(torch.zeros(2), torch.device(kind))
    assert calls == (["pinned"] if pinned else []) + [(kind, pinned)]

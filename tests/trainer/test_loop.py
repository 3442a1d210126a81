import inspect
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffrl_ddpo import DDPO

from diffrl.builtin.advantages import Returns
from diffrl.trainer import loop
from diffrl.trainer.loop import cut
from diffrl.types import Memory, Minibatch, Rewards


def minibatch(m):
    return Minibatch(torch.arange(2 * m).reshape(m, 2), torch.arange(m)[:, None], weight=0.5)


def test_pieces_of_a_minibatch_share_its_weight_and_the_last_commits():
    pieces = list(cut([minibatch(7)], 3))
    assert [len(p.rows) for p in pieces] == [3, 3, 1]
    assert [p.commit for p in pieces] == [False, False, True]
    assert abs(sum(p.weight for p in pieces) - 0.5) < 1e-12
    assert torch.equal(torch.cat([p.rows for p in pieces]), minibatch(7).rows)


def test_a_minibatch_that_does_not_commit_has_no_piece_that_does():
    whole = replace(minibatch(4), commit=False)
    pieces = list(cut([whole], 3))
    assert not any(p.commit for p in pieces)


def test_an_estimator_gets_its_memory_where_rewards_are(monkeypatch):
    """As after a resume, from whose checkpoint it comes on the CPU."""
    everyone = Rewards(torch.zeros(2, 3, device="meta"))
    found = SimpleNamespace(everyone=everyone, share=SimpleNamespace(prompts=None))
    monkeypatch.setattr(loop, "collect", lambda *_: found)

    class Located(Returns):
        def __call__(self, rewards, prompts, memory):
            (past,) = memory.history.values()
            raise InterruptedError(str(past.device))

    train_epoch, nothing = inspect.unwrap(loop.train_epoch), [None] * 4  # types are not checked
    kept = Memory({("a", 3): torch.zeros(1, 3)})
    with pytest.raises(InterruptedError, match="meta"):
        train_epoch(DDPO.but(advantage_estimator=Located()), *nothing, kept, None, 1, None)

from dataclasses import replace

import torch

from diffrl.trainer.loop import cut
from diffrl.types import Minibatch


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

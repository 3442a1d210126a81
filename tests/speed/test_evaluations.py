"""Evaluations in pieces that fit into memory, and no prediction made twice."""

import pytest
import torch

from diffrl.builtin.samplers import Ddim
from diffrl.scoring import ScoredBy
from diffrl.settings import EvalSettings
from diffrl.speed.fitting import Pieces
from diffrl.trainer.evaluate import evaluate


def test_evaluations_are_decoded_in_pieces_that_fit(plain):
    settings = EvalSettings(images=6, steps=(1, 2), shown=3, watch=())
    ended, limit = [], 6

    def decode(x0):
        return x0[:, :3].sigmoid()

    def bright(images, text):
        if len(images) > limit:
            ended.append(len(images))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return images.mean((1, 2, 3))

    def found(decoded):
        pieces = Pieces.of(6, 1, decoded, "cuda")
        rewards, text = [ScoredBy("bright", bright)], ["a fox", "an owl"]
        return evaluate(plain.policy, Ddim(steps=2), decode, rewards, text, settings, pieces)

    wanted = found(6)
    assert not ended
    limit = 2
    cut = found(0)
    assert ended == [6, 3]
    assert torch.equal(cut.images, wanted.images) and cut.images.shape[:2] == (2, 3)
    assert cut.by_prompt == wanted.by_prompt
    for name, apart in cut.by_prompt.items():
        assert set(apart) == {"a fox", "an owl"}
        assert cut.scores[name] == pytest.approx(sum(apart.values()) / 2)
    for name, values in wanted.each.items():
        torch.testing.assert_close(cut.each[name], values, rtol=0, atol=0)


@pytest.mark.parametrize("merge", [False, True])
def test_an_evaluation_predicts_nothing_twice_in_full_precision(plain, merge, monkeypatch):
    settings, asked = EvalSettings(images=6, steps=(2, 4), shown=3, watch=()), []
    policy, pieces = plain.policy, Pieces.of(2, 1, 6, "cpu")
    forward = policy._forward

    def counted(x, t, cond, weights):
        asked.append((len(x), weights))
        return forward(x, t, cond, weights)

    def found(exact):
        asked.clear()
        rewards = [ScoredBy("bright", lambda images, text: images.mean((1, 2, 3)))]
        scores = evaluate(
            policy, Ddim(steps=2), lambda x0: x0[:, :3].sigmoid(), rewards, ["a fox"], settings,
            pieces, exact=exact,
        ).scores  # fmt: skip
        return scores, [sum(n for n, w in asked if w == kind) for kind in ("live", "base")]

    monkeypatch.setattr(policy, "_forward", counted)
    monkeypatch.setattr(policy, "_merge", merge)
    usual, rows = found(exact=False)
    assert rows == [36 + 18, 18]  # six pictures of two and of four steps; three are compared
    once, rows = found(exact=True)
    # Of three pieces' four steps the first is known from two, and that of the base likewise.
    assert rows == ([36 + 18, 18] if merge else [36 - 6, 18 - 3])
    assert once == pytest.approx(usual, rel=1e-4, abs=1e-9)

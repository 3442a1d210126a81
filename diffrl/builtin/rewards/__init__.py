"""Rewards: what pictures are scored by. Their models load when a run begins, not before."""

from __future__ import annotations

from diffrl.builtin.rewards.accuracy import AnimalAccuracy
from diffrl.builtin.rewards.aesthetic import Aesthetic
from diffrl.builtin.rewards.cosine import ClipScore, PickScore
from diffrl.builtin.rewards.hpsv2 import HPSv2
from diffrl.builtin.rewards.imagereward import ImageReward
from diffrl.builtin.rewards.jpeg import JpegCompressibility, JpegIncompressibility
from diffrl.hookspecs import hookimpl
from diffrl.stages import Reward


@hookimpl
def diffrl_rewards() -> list[type[Reward]]:
    """Return the bundled rewards."""
    return [
        Aesthetic,
        AnimalAccuracy,
        ClipScore,
        HPSv2,
        ImageReward,
        JpegCompressibility,
        JpegIncompressibility,
        PickScore,
    ]

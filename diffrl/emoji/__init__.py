"""The emoji world: a tiny few-step latent text-to-image model and its rewards, all in the wheel.

Procedural captioned 64x64 pictures of the 45 animals of the SDPO and DDPO papers, and models
trained on them: a Stable Diffusion pipeline, a PickScore-like preference model, an aesthetic
head, HPSv2- and ImageReward-like models, and an independent judge. `python -m diffrl.emoji.build
OUT` rebuilds all of them.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent
"""Folder of this package."""

PIPELINE = ROOT / "weights" / "pipeline"
"""Diffusers folder that `StableDiffusionPipeline.from_pretrained` loads (fp16 safetensors)."""

PICKSCORE = ROOT / "weights" / "pickscore"
"""`CLIPModel` and `CLIPProcessor` folder of the preference model; PickScore is 100 x cosine."""

AESTHETIC = ROOT / "weights" / "aesthetic.safetensors"
"""Linear head on the unit-norm image embedding of PICKSCORE; the score lies near 1 to 10."""

HPSV2 = ROOT / "weights" / "hpsv2"
"""open_clip folder of a preference model with a taste of its own; the score is 100 x cosine."""

IMAGEREWARD = ROOT / "weights" / "imagereward"
"""BLIP with a linear head, under ImageReward's key names, trained on rankings of pictures."""

JUDGE = ROOT / "weights" / "judge.safetensors"
"""Classifier trained on renders alone, apart from every reward; see `diffrl.emoji.judge`."""

REAL_SCORES = ROOT / "weights" / "real_scores.json"
"""Mean and within-prompt std of PickScore x 100 and aesthetic score on held-out renders."""

__all__ = [
    "AESTHETIC",
    "HPSV2",
    "IMAGEREWARD",
    "JUDGE",
    "PICKSCORE",
    "PIPELINE",
    "REAL_SCORES",
    "ROOT",
]

"""A real CLIPTokenizer for the emoji world: bytes plus byte pairs learnt from its words.

Every word of the grammar is one token; unknown words fall back to pieces, down to bytes.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

from diffrl.emoji.world import ANIMALS, COLORS, COUNTS, PLACES, plural

LENGTH = 16
"""Tokens per caption, the two special ones included."""

_START, _END = "<|startoftext|>", "<|endoftext|>"


def words() -> list[str]:
    """Every word of the captions, sorted."""
    found = {*ANIMALS, *map(plural, ANIMALS), *COLORS, *COUNTS, "a", "an", "and", "colored"}
    return sorted(found.union(*(place.split() for place in PLACES)))


def _byte_letters() -> list[str]:
    """One printable letter per byte, as GPT-2's and CLIP's tokenizers have it."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(256 - len(kept))]


def learn_merges(vocabulary: list[str]) -> list[tuple[str, str]]:
    """Byte pairs, most frequent first, until every word is one piece."""
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in vocabulary]
    merges = []
    while any(len(pieces) > 1 for pieces in spelled):
        counts = Counter(p for pieces in spelled for p in itertools.pairwise(pieces))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merged(pieces, best) for pieces in spelled]
    return merges


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """Writes the tokenizer's files for old and new transformers, and loads it from them."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = _byte_letters()
    merges = learn_merges(words())
    tokens = [*letters, *(c + "</w>" for c in letters), *dict.fromkeys(map("".join, merges))]
    vocabulary = {token: i for i, token in enumerate([*tokens, _START, _END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, "bos_token": _START,
        "eos_token": _END, "unk_token": _END, "pad_token": _END, "errors": "replace",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)

"""The captions of the emoji world."""

from __future__ import annotations

from generators.markdown import table


def captions() -> str:
    """Return the forms of a caption, and the words in them."""
    from diffrl.emoji.world import ANIMALS, COLORS, COUNTS, PLACES

    forms = [
        ("`ANIMAL`, `a ANIMAL`", "cat; a cat"),
        ("`a COLOR colored ANIMAL`", "a green colored rabbit"),
        ("`a ANIMAL PLACE`", "a dog on the moon"),
        ("`COUNT ANIMALS`, `COUNT ANIMALS PLACE`", "three mice; four wolves in the park"),
        ("`a ANIMAL and a ANIMAL`", "a cat and a dog"),
    ]
    words = {"COLOR": COLORS, "COUNT": COUNTS[1:], "PLACE": PLACES, "ANIMAL": ANIMALS}
    listed = "\n".join(f"- `{name}`: {', '.join(known)}" for name, known in words.items())
    return f"{table(('form', 'such as'), forms)}\n\n{listed}"

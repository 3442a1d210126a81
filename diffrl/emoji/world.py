"""What there is to draw: animals, colors, places, counts, and the captions that name them.

Grammar of a caption (case does not matter)::

    [a|an] ANIMAL | a COLOR colored ANIMAL | a ANIMAL PLACE | COUNT ANIMALS [PLACE]
    | a ANIMAL and a ANIMAL
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations, product

from diffrl.errors import DiffrlError

ANIMALS = tuple(
    "cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox "
    "wolf lizard beetle ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle "
    "frog chicken duck goose bee pig turkey fly llama camel bat gorilla hedgehog kangaroo".split()
)
"""The 45 animals of the DDPO and SDPO papers, in their order."""

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colors an animal can be tinted with."""

PLACES = (
    "on the moon", "in the park", "on the beach", "in the snow",
    "in the forest", "in the desert", "in the city", "in the sea",
)  # fmt: skip
"""Places an animal can be in, as the captions say them."""

COUNTS = ("one", "two", "three", "four")
"""Number words; `COUNTS[n - 1]` names n animals."""

UNSEEN = (
    "A green colored rabbit", "Four wolves in the park", "A cat and a dog", "A dog on the moon",
)  # fmt: skip
"""The four unseen prompts of SDPO's Table I (color, count, composition, location), verbatim."""

KINDS = ("bare", "article", "color", "place", "count", "pair")
"""The kinds of caption, by what they add to the bare name."""

_PLURALS = {
    "wolf": "wolves", "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer",
    "fish": "fish", "fox": "foxes", "butterfly": "butterflies", "fly": "flies",
}  # fmt: skip


class CaptionError(DiffrlError, ValueError):
    """A caption is outside the grammar of the emoji world."""


@dataclass(frozen=True)
class Scene:
    """What a caption says: which animals, of which color, where, how many."""

    animals: tuple[str, ...]
    color: str | None = None
    place: str | None = None
    count: int = 1

    @property
    def kind(self) -> str:
        """Its kind: "color", "place", "count", "pair", or "bare" where nothing is added."""
        if len(self.animals) == 2:
            return "pair"
        if self.count > 1:
            return "count"
        return "color" if self.color else "place" if self.place else "bare"


def plural(animal: str) -> str:
    """Plural of an animal's name."""
    return _PLURALS.get(animal, animal + "s")


def article(word: str) -> str:
    """The word with its indefinite article: "a cat", "an ant"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def caption(scene: Scene) -> str:
    """The sentence for a scene; a single animal without attributes is its bare name."""
    if len(scene.animals) == 2:
        return " and ".join(article(name) for name in scene.animals)
    (animal,) = scene.animals
    if scene.count > 1:
        text = f"{COUNTS[scene.count - 1]} {plural(animal)}"
    elif scene.color:
        text = article(f"{scene.color} colored {animal}")
    else:
        text = article(animal) if scene.place else animal
    return f"{text} {scene.place}" if scene.place else text


@cache
def parse(text: str) -> Scene:
    """The scene that a caption describes.

    Raises:
        CaptionError: the caption is outside the grammar of this module.
    """
    rest = " ".join(text.lower().strip(" .").split())
    place = next((p for p in PLACES if rest.endswith(" " + p)), None)
    rest = rest.removesuffix(place or "").strip()
    animals, colors, counts = [], [], []
    for word in rest.split():
        if word in _SINGULAR:
            animals.append(_SINGULAR[word])
        elif word in COLORS:
            colors.append(word)
        elif word in COUNTS:
            counts.append(COUNTS.index(word) + 1)
        elif word not in ("a", "an", "and", "colored"):
            raise CaptionError(f"{text!r}: {word!r} is no word of the emoji world")
    if not 1 <= len(animals) <= 2 or len(colors) > 1 or len(counts) > 1:
        raise CaptionError(f"{text!r} is no caption of the emoji world, such as {UNSEEN[0]!r}")
    color, count = next(iter(colors), None), next(iter(counts), 1)
    return Scene(tuple(animals), color, place, count)


_SINGULAR = {form: name for name in ANIMALS for form in (name, plural(name))}


def scenes(kind: str) -> list[Scene]:
    """Every scene of one kind, held-out ones included ("article" shares those of "bare")."""
    if kind == "pair":
        return [Scene(pair) for pair in permutations(ANIMALS, 2)]
    if kind == "color":
        return [Scene((a,), color=c) for a, c in product(ANIMALS, COLORS)]
    if kind == "place":
        return [Scene((a,), place=p) for a, p in product(ANIMALS, PLACES)]
    if kind == "count":
        places = (None, *PLACES)
        return [Scene((a,), place=p, count=n) for a, n, p in product(ANIMALS, (2, 3, 4), places)]
    return [Scene((a,)) for a in ANIMALS]


@cache
def _held_out(each: int = 26) -> tuple[Scene, ...]:
    rng = random.Random("emoji world: held out")
    unseen = [parse(text) for text in UNSEEN]
    pairs = [Scene(pair) for pair in combinations(ANIMALS, 2)]
    for kind in ("color", "count", "pair", "place"):
        pool = pairs if kind == "pair" else scenes(kind)
        unseen += rng.sample([s for s in pool if s not in unseen], each)
    return tuple(unseen)


HELD_OUT = UNSEEN + tuple(caption(scene) for scene in _held_out()[len(UNSEEN) :])
"""Captions no training stage sees: the four unseen prompts, then 26 of each of their kinds."""


def is_held_out(scene: Scene) -> bool:
    """Whether a scene, or a pair in the other order, is kept from training."""
    return scene in _held_out() or replace(scene, animals=scene.animals[::-1]) in _held_out()

"""Random contents of files: bytes, damaged text, TOML and JSON of any shape."""

import json
import string

from hypothesis import strategies as st

SCRAPS = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"[", b"]", b"{",
    b"}", b'"', b"'", b"=", b",", b"\x1b[31m", b"<script>", b"&", b"9" * 5000, b"[" * 3000, b"nan",
    b"1e999", b"-", b"#", b"null", b"true", "🦊".encode(), b"a" * 10_000,
]  # fmt: skip
DEEP = "[" * 100_000
NUMBERS = st.one_of(
    st.integers(-9, 99), st.floats(), st.sampled_from([10**30, 10**400, -(2**63), 1e308])
)
NAMES = st.one_of(st.text(string.ascii_lowercase, max_size=5), st.text(max_size=5))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=9)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


@st.composite
def damaged(draw, whole):
    """Damage bytes in a few places: something put in, taken out, or cut off."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        end = min(len(content), at + draw(st.sampled_from([0, 0, 1, 3, 40])))
        put = draw(st.one_of(st.sampled_from(SCRAPS), st.binary(max_size=4)))
        content = content[:at] + put + content[end:]
    return content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content


@st.composite
def reshaped(draw, value):
    """Put nonsense in place of one value somewhere in a tree, or take it out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        if not draw(st.integers(0, 9)):
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: draw(reshaped(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(reshaped(value[at])), *value[at + 1 :]]
    return draw(JSON)


def written(tree):
    """Return JSON of a tree; it may hold nan, halves of surrogate pairs and huge numbers."""
    return json.dumps(tree).encode()


def files(whole, tree=None):
    """Return a strategy of contents: random, damaged, of another shape, nested too deeply."""
    kinds = [st.binary(max_size=60), damaged(whole), damaged(whole), st.just(DEEP.encode())]
    if tree is not None:
        kinds += [reshaped(tree).map(written)] * 4 + [JSON.map(written)]
    return st.one_of(kinds)

"""Strategies for the fields of any pydantic model, from its own JSON schema."""

import string
from functools import cache

from hypothesis import strategies as st

from diffrl.registry import registry
from diffrl.settings.checks import DEVICES, SCHEDULE
from diffrl.settings.target import LARGEST_FLOAT, LARGEST_INT

ODD = [
    "", " ", "a  # b", "'\"'\\", "\u2028x = 1", "\x85", "\U0001f98a\u200d\U0001f525", "\u202ex",
    "[t]\na = 1", "\x00\x1b[31m",
]  # fmt: skip
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text(string.ascii_lowercase + "-", min_size=1, max_size=8),
    st.sampled_from(ODD),
)
GROUPS = [1, 2, 2, 3, 4, 4, 6]

LIKELY = {
    "model.device": st.from_regex(rf"\A(?:{DEVICES})\Z"),
    "model.precision": st.sampled_from(["fp32", "bf16"]),
    "train.trajectories": st.integers(1, 40).map(lambda n: 12 * n),
    "eval.steps": st.lists(st.integers(1, SCHEDULE), min_size=1, max_size=4),
    "sampler.group": st.sampled_from(GROUPS),
    "sampler.steps": st.integers(2, 50),
    "sampler.lengths": st.lists(st.integers(2, 50), max_size=4),
    "update_scheduler.skip_last": st.integers(0, 1),
    "eval.watch": st.deferred(lambda: st.lists(reward_names(), max_size=2, unique=True)),
}
"""Of values that must suit others, some that often do."""


def reward_names():
    """Return a strategy of the rewards there are."""
    return st.sampled_from(sorted(registry().components("reward")))


@cache
def fields(path, model):
    """Return a strategy of valid values for each field, by dotted key."""
    schema = model.model_json_schema()
    found = {}
    for name, own in schema.get("properties", {}).items():
        key = f"{path}.{name}"
        found[key] = values(own)
        if key in ("model.device", "eval.watch"):  # texts with a meaning that no schema tells
            found[key] = LIKELY[key]
        elif key in LIKELY:
            often = LIKELY[key].filter(lambda value, own=own: allows(own, value))
            found[key] = st.one_of(often, often, often, values(own))
    return found


def allows(schema, value):
    """Return whether a whole number is within the bounds of a schema; others always are."""
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    return not isinstance(value, int) or low <= value <= high


def values(schema):
    """Return a strategy of everything that a JSON schema allows."""
    if "anyOf" in schema:
        return st.one_of([values(one) for one in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema["type"]
    if kind == "array":
        sizes = {"min_size": schema.get("minItems", 0), "max_size": schema.get("maxItems", 4)}
        return st.lists(values(schema["items"]), **sizes)
    if kind == "string":
        return st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else TEXT
    return {"null": st.none, "boolean": st.booleans}.get(kind, lambda: numbers(schema))()


def numbers(schema):
    """Return a strategy of whole or real numbers between the bounds of a schema."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if schema["type"] == "integer":
        low = low if above is None else above + 1
        high = high if below is None else below - 1
        low, high = -LARGEST_INT if low is None else low, LARGEST_INT if high is None else high
        small = st.integers(low, max(low, min(high, low + 6)))
        return st.one_of(small, small, st.integers(low, high))
    low = float(-LARGEST_FLOAT if low is above is None else low if above is None else above)
    high = float(LARGEST_FLOAT if high is below is None else high if below is None else below)
    inside = {"exclude_min": above is not None, "exclude_max": below is not None}
    usual = st.floats(low, high, **inside)
    middle = max(low, min(high - 1, 0.0))
    near = st.floats(middle + 1e-6, min(middle + 1, high) - 1e-6)
    return st.one_of(near, usual)

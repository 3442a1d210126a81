"""Random settings that each are valid, given through a random mixture of layers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from fuzz_fields import fields, reward_names
from hypothesis import strategies as st

from diffrl import presets
from diffrl.registry import registry
from diffrl.settings.layers import FLAGS
from diffrl.settings.resolve import resolve
from diffrl.settings.sections import SECTIONS
from diffrl.stages import STAGES

LAYERS = ("config", "flag", "set")
"""Lowest first."""


@dataclass
class Drawn:
    """What somebody might ask for; `expected` holds the value of the highest layer of each key."""

    algo: str
    rewards: list[str]
    preset: str
    watch: list[str]
    config: dict[str, Any]
    from_file: bool
    flags: dict[str, tuple[Any, str]] = field(default_factory=dict)
    sets: list[str] = field(default_factory=list)
    expected: dict[str, Any] = field(default_factory=dict)

    def resolve(self, folder: Path):
        """Return the settings."""
        config: Any = self.config
        if self.from_file:
            config = folder / "config.toml"
            config.write_text(tomli_w.dumps(self.config), encoding="utf-8")
        return resolve(
            self.algo, self.rewards, self.preset, config, self.sets, self.flags, watch=self.watch
        )


@st.composite
def drawn_settings(draw):
    """Draw an algorithm, rewards, a preset, swaps of stages and fields, each in some layers."""
    algo = draw(st.sampled_from(sorted(registry().components("algorithm"))))
    names = draw(st.lists(reward_names(), min_size=1, max_size=3, unique=True))
    weights = [draw(st.sampled_from(["", ":2", ":0.25", ":-1e-3", ":1e3"])) for _ in names]
    made = Drawn(
        algo=algo,
        rewards=[name + weight for name, weight in zip(names, weights, strict=True)],
        preset=draw(st.sampled_from(presets.names())),
        watch=draw(st.lists(reward_names(), max_size=1)),
        config={},
        from_file=draw(st.booleans()),
    )
    stages = {slot: type(s) for slot, s in registry().get("algorithm", algo).value.stages.items()}
    for slot, table in presets.read(made.preset).items():
        if slot in STAGES and "name" in table:
            stages[slot] = registry().get(slot, table["name"]).value
    for slot in draw(st.lists(st.sampled_from(sorted(STAGES)), max_size=2, unique=True)):
        name = draw(st.sampled_from(sorted(registry().components(slot))))
        stages[slot] = registry().get(slot, name).value
        give(draw, made, slot, st.just(name))
    known, needed = possible(stages, names)
    picked = draw(st.lists(st.sampled_from(sorted(known)), max_size=8, unique=True))
    for key in dict.fromkeys([*needed, *picked]):
        give(draw, made, key, known[key])
    return made


def possible(stages, rewards):
    """Return every field that can be set, with its strategy, and those that have no default."""
    models = {**stages, **SECTIONS}
    models |= {f"rewards.{name}": registry().get("reward", name).value for name in rewards}
    known = {k: v for path, model in models.items() for k, v in fields(path, model).items()}
    needed = [
        f"{slot}.{name}"
        for slot, model in stages.items()
        for name, info in model.model_fields.items()
        if info.is_required() and name not in ("steps", "group")
    ]
    return known, needed


def give(draw, made, key, strategy):
    """Give a key a value in one layer, or another value in each of several."""
    layers = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=2, unique=True))
    for layer in sorted(layers, key=LAYERS.index):
        value = made.expected[key] = draw(strategy)
        written = "none" if value is None else value
        if layer == "config":
            put(made.config, key, written)
        elif layer == "flag" and key in FLAGS.values():
            made.flags[key] = (written, f"--{key} {written}")
        else:
            made.sets = [text for text in made.sets if text.partition("=")[0] != spelt(key)]
            made.sets.append(f"{spelt(key)}={draw(written_as(written))}")


def put(config, key, value):
    """Put a value into nested tables; a stage is named by the `name` of its table."""
    *tables, last = [*key.split("."), "name"] if key in STAGES else key.split(".")
    for table in tables:
        config = config.setdefault(table, {})
    config[last] = value


def spelt(key):
    """Return a key as some write it on the command line."""
    return key if key.startswith("rewards.") else key.replace("_", "-")


def written_as(value):
    """Return a strategy of texts that `--set` reads as this value."""
    import tomli_w

    texts = [tomli_w.dumps({"v": value}, multiline_strings=False).removeprefix("v = ").strip("\n")]
    if isinstance(value, str) and value.replace("-", "").isalpha() and value.isascii():
        texts += [value] if value not in ("true", "false", "inf", "nan", "-inf", "-nan") else []
    return st.sampled_from(texts)

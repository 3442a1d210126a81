"""Random settings of which each has something wrong, and what a message about it must name."""

import string
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from fuzz_draws import put, written_as
from fuzz_fields import reward_names
from hypothesis import strategies as st

from diffrl.registry import registry
from diffrl.settings.sections import SECTIONS

ODD = [
    "\x00", "\x1b[31mred", "a\nb", "a\r\nerror: b", "\u2028", "\x85", "🦊", "\u202egnp", "\udcff",
    "..", ".", "a..b", "[a]", "a" * 3000, "ünïcode", "\t", "-", "--", "'", '"', "\\", "%s{0}",
]  # fmt: skip
HUGE = ["1e400", "-1e400", "nan", "inf", "-inf", "1e39", "9" * 60, "9" * 5000, "0x" + "f" * 5000]
WORD = st.text(string.ascii_lowercase, min_size=3, max_size=9).map(lambda word: f"zz{word}")
ODD_TEXT = st.one_of(
    st.sampled_from(ODD), st.text(min_size=1, max_size=10).map(lambda text: f"zz{text}")
)


@dataclass
class Wrong:
    """What is asked for beside a sound algorithm and reward.

    `named` holds what a message must contain, one of it; `config` is the content of a TOML file.
    """

    named: list[str]
    argv: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    algo: str = "sdpo"
    reward: str = "pickscore"


@cache
def known():
    """Return the fields of one algorithm and reward, with models and schemas, by key."""
    recipe = registry().get("algorithm", "sdpo").value
    models = {slot: type(stage) for slot, stage in recipe.stages.items()} | SECTIONS
    models["rewards.pickscore"] = registry().get("reward", "pickscore").value
    return {
        f"{path}.{name}": schema
        for path, model in models.items()
        for name, schema in model.model_json_schema()["properties"].items()
    }


def kinds(schema):
    """Return the schema's alternatives, and its own where it has none."""
    return [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]


def given(draw, key, value, **more):
    """Return a wrong value for a key in a config file or behind --set."""
    if draw(st.booleans()) and not (isinstance(value, str) and "\udcff" in value):
        config: dict[str, Any] = {}
        put(config, key, value)
        return Wrong([key], config=config, **more)
    return Wrong([key], ["--set", f"{key}={draw(written_as(value))}"], **more)


@st.composite
def of_wrong_type(draw):
    """A list for a number, a number for a text."""
    key = draw(st.sampled_from(sorted(known())))
    (schema,) = kinds(known()[key])
    lists = st.lists(st.integers(), min_size=1, max_size=2)
    whole = st.integers(-9, 99)
    wrong = {
        "integer": st.one_of(WORD, lists, st.just(2.5)),
        "number": st.one_of(WORD, lists, st.just("1.0.0")),
        "boolean": st.one_of(WORD, lists, st.integers(2, 9)),
        "string": st.one_of(whole, lists, st.booleans(), st.just(0.5)),
        "array": st.one_of(WORD, whole, st.booleans(), st.just([[1]])),
    }[schema["type"]]
    if "enum" in schema:
        wrong = st.one_of(wrong, ODD_TEXT.filter(lambda text: "\udcff" not in text))
    return given(draw, key, draw(wrong))


@st.composite
def out_of_range(draw):
    """A number beyond a bound of its schema."""
    bounded = {}
    for key, schema in known().items():
        for own in kinds(schema):
            for bound in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                if bound in own:
                    bounded.setdefault(key, []).append((bound, own[bound], own["type"]))
    key = draw(st.sampled_from(sorted(bounded)))
    bound, at, kind = draw(st.sampled_from(bounded[key]))
    away = draw(st.integers(1, 10**6) if kind == "integer" else st.floats(0.125, 1e6))
    away = 0 if bound.startswith("exclusive") and draw(st.booleans()) else away
    return given(draw, key, at - away if "inimum" in bound else at + away)


@st.composite
def huge(draw):
    """A number that no tensor can hold, or none at all."""
    numeric = [k for k, s in known().items() if kinds(s)[0]["type"] in ("integer", "number")]
    key = draw(st.sampled_from(sorted(numeric)))
    return Wrong([key], ["--set", f"{key}={draw(st.sampled_from(HUGE))}"])


@st.composite
def unknown_field(draw):
    """A key that nothing has."""
    path = draw(st.sampled_from(["", *sorted({k.rpartition(".")[0] for k in known()})]))
    name = draw(st.one_of(WORD, ODD_TEXT))
    key = f"{path}.{name}" if path else name
    value = draw(st.one_of(st.integers(), WORD, st.just("")))
    if draw(st.booleans()) and "\udcff" not in key and "." not in name:
        config: dict[str, Any] = {}
        put(config, key, value)
        return Wrong([name, key], config=config)
    return Wrong([name, key, "--set"], ["--set", f"{key}={value}"])


@st.composite
def unknown_name(draw):
    """An algorithm, reward, preset or stage that is not installed, or an option's nonsense."""
    name = draw(st.one_of(WORD, ODD_TEXT).filter(lambda text: not text.startswith("-")))
    slot = draw(st.sampled_from(["sampler", "reward_predictor", "loss", "update_scheduler"]))
    return draw(
        st.sampled_from(
            [
                Wrong([name], algo=name),
                Wrong([name], reward=name),
                Wrong([name], ["--preset", name]),
                Wrong([name], ["--watch", name]),
                Wrong([name], ["--set", f"{slot}={name}"]),
                Wrong([name, "--device"], ["--device", name]),
                Wrong([name, "--precision"], ["--precision", name]),
                Wrong(["--epochs"], ["--epochs", name]),
                Wrong(["--seed"], ["--seed", f"-{len(name)}"]),
                Wrong(["--reward-checkpoint"], ["--reward-checkpoint", name.replace("=", "")]),
                Wrong([name, "No such option"], [f"--{name}"]),
            ]
        )
    )


@st.composite
def malformed_set(draw):
    """What is no key=value."""
    text = draw(st.one_of(WORD, ODD_TEXT)).replace("=", "")
    text = draw(st.sampled_from([text, f"={text}", f" ={text}", "", "="]))
    return Wrong(["--set"], ["--set", text])


PLAIN = st.one_of(st.integers(-9, 9), st.booleans(), WORD, st.just(0.5))
TREE = st.recursive(
    PLAIN,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORD, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def nonsense_in_config(draw):
    """Tables and lists where none belong."""
    key = draw(st.sampled_from(sorted(known())))
    place = draw(st.sampled_from(["value", "table", "section", "slot", "rewards", "reward"]))
    tree = draw(TREE)
    if place == "value":
        config: dict[str, Any] = {}
        put(config, key, {draw(WORD): tree})
        return Wrong([key], config=config)
    name = draw(WORD)
    content = {
        "table": {name: tree if tree != {} else 1},
        "section": {"train": tree if not isinstance(tree, dict) else {name: 1}},
        "slot": {"sampler": {"name": tree}},
        "rewards": {"rewards": tree if tree != {} else 3},
        "reward": {"rewards": {"pickscore": tree if not isinstance(tree, dict) else {name: 1}}},
    }[place]
    named = {"table": name, "section": "train", "slot": "sampler"}.get(place, "reward")
    return Wrong([named, f"no {named}"], config=content)


CLASHES = [
    (["train.trajectories=63"], "train.trajectories"),
    (["sampler.group=3", "train.trajectories=63"], "sampler.group"),
    (["sampler.group=1"], "sampler.group"),
    (["sampler.eta=0"], "sampler.eta"),
    (["sampler=lcm", "sampler.steps=1"], "sampler.steps"),
    (["advantage_estimator.min_count=33"], "advantage_estimator.min_count"),
    (["model.precision=fp16", "model.device=cpu"], "model.precision"),
    (["sampler.steps=1", "update_scheduler.skip_last=1"], "sampler"),
    (["sampler.lengths=[4, 1001]"], "sampler.lengths"),
    (["eval.steps=[1, 1001]"], "eval.steps"),
    (["sampler=ode"], "sampler"),
    (["loss=clipped-ratio"], "loss"),
    (["update_scheduler=rows-first"], "update scheduler"),
    (["reward_predictor=labels"], "reward predictor"),
    (["sampler=stored"], "sampler.file"),
    (["loss=relative-reward"], "loss"),
    (["eval.watch=['pickscor']"], "eval.watch"),
]


@st.composite
def clash(draw):
    """Values that are right one by one and wrong together, among others that are right."""
    sets, named = draw(st.sampled_from(CLASHES))
    sound = {"optimizer.lr": 0.1, "adapter.rank": 2, "eval.eta": 0.5, "loss.decay": 0.5}
    kept = draw(st.lists(st.sampled_from(sorted(sound)), max_size=3, unique=True))
    if any(text.startswith("loss") for text in sets):
        kept = [key for key in kept if key != "loss.decay"]
    texts = draw(st.permutations([*sets, *(f"{key}={sound[key]}" for key in kept)]))
    return Wrong([named], [word for text in texts for word in ("--set", text)])


@st.composite
def given_twice(draw):
    """Rewards that are named twice, or weighed with what is no number."""
    name = draw(reward_names().filter(lambda name: name != "pickscore"))
    argv = draw(
        st.sampled_from(
            [
                ["--reward", name, "--reward", f"{name}:2"],
                ["--reward", f"{name}:{draw(WORD)}"],
                ["--reward", f"{name}:nan"],
                ["--watch", f"{name}:2"],
                ["--set", f"rewards.{name}.weight=1"],
                ["--set", f"rewards.{name}.{draw(WORD)}=1"],
            ]
        )
    )
    return Wrong([name], argv)


WRONG = st.one_of(
    of_wrong_type(), out_of_range(), huge(), unknown_field(), unknown_name(), malformed_set(),
    nonsense_in_config(), clash(), given_twice(),
)  # fmt: skip

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import ClassVar

import pytest
from diffrl_ddpo import DDPO

from diffrl import hookimpl
from diffrl.errors import DuplicateName, PluginError, UnknownName
from diffrl.kinds import KINDS, refuse_misfit
from diffrl.registry import BUILTINS, Registry, registry
from diffrl.stages import Loss, Reward, UpdateScheduler


class Flat(Loss):
    """A loss for tests."""

    name: ClassVar[str] = "flat-for-tests"


class Brings:
    def __init__(self, *losses):
        self.losses = losses

    @hookimpl
    def diffrl_losses(self):
        return list(self.losses)


def point(name, value):
    return EntryPoint(name, value, "diffrl")


def named(text):
    return type("Named", (Loss,), {"name": text, "__module__": __name__})


@pytest.fixture
def fresh(monkeypatch):
    """Returns the process's registry as it would be built anew."""
    registry.cache_clear()
    yield registry
    registry.cache_clear()


def test_a_registered_component_is_found_with_its_owner():
    found = Registry()
    found.register(Brings(Flat), "mine", "my-package", "3.1")
    entry = found.get("loss", "flat-for-tests")
    assert (entry.value, entry.package, entry.version) == (Flat, "my-package", "3.1")
    assert entry.owner == "mine (my-package 3.1)"


def test_an_unknown_name_is_refused_with_the_nearest():
    found = Registry()
    found.register(Brings(Flat), "mine")
    with pytest.raises(UnknownName, match=r"no loss is called 'flat-for-test'\. Did you mean flat"):
        found.get("loss", "flat-for-test")


def test_a_name_that_two_plugins_claim_is_refused_naming_both():
    found = Registry()
    found.register(Brings(Flat), "mine", "a", "1")
    found.register(Brings(Flat), "yours", "b", "2")
    with pytest.raises(DuplicateName, match=r"'flat-for-tests': mine \(a 1\) and yours \(b 2\)"):
        found.get("loss", "flat-for-tests")
    assert [e.rows for e in found.duplicates()] == [
        [[*owner, "another plugin registers a loss called 'flat-for-tests', too"]
         for owner in (("mine", "a", "1"), ("yours", "b", "2"))]
    ]  # fmt: skip
    assert list(found.components("loss")) == ["flat-for-tests"]


def test_without_duplicates_nothing_is_refused():
    found = Registry()
    found.register(Brings(Flat), "mine")
    assert found.duplicates() == []


GOOD = """
from typing import ClassVar
from diffrl import Loss, hookimpl

diffrl_api = 1

class {cls}(Loss):
    name: ClassVar[str] = {name!r}

@hookimpl
def {hook}({arguments}):
    return [{cls}]
"""


def test_every_kind_of_broken_plugin_is_a_row_and_stops_no_other(tmp_path, monkeypatch):
    modules = {
        "good_one": GOOD.format(cls="One", name="one", hook="diffrl_losses", arguments=""),
        "bad_import": "import no_such_module_at_all",
        "bad_hook": GOOD.format(cls="Two", name="two", hook="diffrl_loses", arguments=""),
        "bad_signature": GOOD.format(cls="Three", name="three", hook="diffrl_losses",
                                     arguments="colour"),
        "bad_version": GOOD.format(cls="Four", name="four", hook="diffrl_losses", arguments="")
        .replace("diffrl_api = 1", "diffrl_api = 2"),
        "twin_a": GOOD.format(cls="Twin", name="twin", hook="diffrl_losses", arguments=""),
        "twin_b": GOOD.format(cls="Twin", name="twin", hook="diffrl_losses", arguments=""),
        "good_two": GOOD.format(cls="Five", name="five", hook="diffrl_losses", arguments=""),
    }  # fmt: skip
    for name, code in modules.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry(BUILTINS, [point(name, name) for name in modules])
    why = {b.name: b.error for b in found.broken}
    assert list(why) == ["bad_import", "bad_hook", "bad_signature", "bad_version"]
    assert "No module named 'no_such_module_at_all'" in why["bad_import"]
    assert "Did you mean diffrl_losses" in why["bad_hook"]
    assert "colour" in why["bad_signature"]
    assert why["bad_version"] == (
        "was written for version 2 of diffrl's plugin interface; this is version 1"
    )
    (twins,) = found.duplicates()
    assert [row[0] for row in twins.rows] == ["twin_a", "twin_b"]
    assert found.get("loss", "one").value.name == "one"
    assert found.get("loss", "five").value.name == "five"
    with pytest.raises(DuplicateName, match=r"twin_a .* and twin_b"):
        found.get("loss", "twin")


def test_a_misspelt_hook_is_refused_with_the_nearest_hook():
    class Plugin:
        @hookimpl
        def diffrl_loses(self):
            return []

    found = Registry()
    with pytest.raises(PluginError, match=r"'diffrl_loses'\. Did you mean diffrl_losses"):
        found.register(Plugin(), "typo")
    found.register(Brings(Flat), "typo")
    assert "flat-for-tests" in found.components("loss")


def test_a_hook_without_hookimpl_is_refused_instead_of_ignored():
    class Plugin:
        def diffrl_losses(self):
            return []

    with pytest.raises(PluginError, match="diffrl_losses is not marked with @hookimpl"):
        Registry().register(Plugin(), "bare")


def test_a_misspelt_hook_without_hookimpl_is_refused_too():
    plugin = SimpleNamespace(diffrl_loses=lambda: [Flat])
    with pytest.raises(PluginError, match=r"diffrl_loses is not marked .* Did you mean diffrl_los"):
        Registry().register(plugin, "mine")


class Weighs(Reward):
    """A reward for tests."""

    name: ClassVar[str] = "weighs"
    weight: float = 3.0


class Wants(Loss):
    """A loss for tests."""

    name: ClassVar[str] = "wants"
    needs = ["log_prob"]  # noqa: RUF012


class Bare(UpdateScheduler):
    """A scheduler for tests, which does not say how many rows a tuple has."""

    name: ClassVar[str] = "bare"


class Counted(UpdateScheduler):
    """A scheduler for tests, whose tuples are as large as a setting says."""

    name: ClassVar[str] = "counted"
    arity: int = 2


def test_an_arity_may_be_a_setting():
    refuse_misfit(Counted, KINDS["update_scheduler"])


def test_a_plugin_whose_hook_leaves_is_left_out_as_a_whole():
    class Leaves:
        @hookimpl
        def diffrl_losses(self):
            sys.exit("not here")

        @hookimpl
        def diffrl_run_started(self, event):
            raise AssertionError("is not registered")

    found = Registry()
    with pytest.raises(PluginError, match="not here"):
        found.register(Leaves(), "leaves")
    assert "leaves" not in found.loaded and not list(found.observers("diffrl_run_started"))


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (Weighs, "reward", "Weighs has a field 'weight', which is the run's own"),
        (Wants, "loss", r"Wants.needs is \['log_prob'\]; expected a frozenset"),
        (Bare, "update_scheduler", "Bare needs an arity"),
    ],
)
def test_what_a_component_says_of_itself_in_another_form_is_refused(value, kind, said):
    with pytest.raises(PluginError, match=said):
        refuse_misfit(value, KINDS[kind])


def test_a_recipe_that_is_tuned_like_a_text_is_refused():
    recipe = replace(DDPO)
    object.__setattr__(recipe, "tuned_like", "ddpo")  # where nobody checks types as tests do
    with pytest.raises(PluginError, match="tuned_like = 'ddpo'; expected a tuple"):
        refuse_misfit(recipe, KINDS["algorithm"])


def test_what_a_plugin_prints_is_no_part_of_an_answer(tmp_path, monkeypatch, capsys):
    (tmp_path / "prints_much.py").write_text("print('hello')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    Registry((), [point("prints", "prints_much")])
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "hello\n")


def test_a_hook_with_an_argument_it_never_gets_is_refused():
    class Plugin:
        @hookimpl
        def diffrl_losses(self, colour):
            return []

    with pytest.raises(PluginError, match="colour"):
        Registry().register(Plugin(), "greedy")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "should return subclasses of Loss, but returned 3"),
        (Flat(), "should return subclasses of Loss"),
        (named("Not Kebab"), "name in kebab-case, but has 'Not Kebab'"),
        (type("Nameless", (Loss,), {"__module__": __name__}), "Nameless needs a name"),
    ],
)
def test_a_hook_that_returns_something_else_is_refused(given, message):
    found = Registry()
    with pytest.raises(PluginError, match=message):
        found.register(Brings(given), "odd")
    assert found.components("loss") == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("clipped-ratio", "'mine' should have a Loss value as its loss, but has 'clipped-ratio'"),
        (Flat, r"as its loss, but has <class .*Flat.*>; write Flat\(\)"),
    ],
)
def test_a_recipe_with_something_else_than_a_stage_is_refused(given, message):
    class Plugin:
        @hookimpl
        def diffrl_algorithms(self):
            recipe = replace(registry().get("algorithm", "ddpo").value, name="mine")
            object.__setattr__(recipe, "loss", given)  # these tests check types where one is made
            return [recipe]

    found = Registry()
    with pytest.raises(PluginError, match=message):
        found.register(Plugin(), "odd")
    assert found.components("algorithm") == {}


def test_what_is_left_out_on_purpose_is_named_where_it_is_missed():
    found = Registry()
    found.left_out = ("sdpo", "rebel")
    with pytest.raises(UnknownName, match=r"\(DIFFRL_PLUGINS leaves out sdpo, rebel\.\)"):
        found.get("algorithm", "sdpo")


def test_a_plugin_that_cannot_be_imported_is_a_row_and_the_others_work(tmp_path, monkeypatch):
    (tmp_path / "explodes_on_import.py").write_text("raise RuntimeError('two\\nlines')")
    (tmp_path / "exits_on_import.py").write_text("raise SystemExit(3)")
    (tmp_path / "works_fine.py").write_text(
        "from typing import ClassVar\n"
        "from diffrl import Loss, hookimpl\n"
        "class Fine(Loss):\n"
        "    name: ClassVar[str] = 'fine'\n"
        "@hookimpl\n"
        "def diffrl_losses():\n"
        "    return [Fine]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    names = ["explodes_on_import", "exits_on_import", "not_there_at_all", "works_fine"]
    found = Registry((), [point(name, name) for name in names])
    assert list(found.components("loss")) == ["fine"]
    assert [b.name for b in found.broken] == names[:3]
    assert found.broken[0].error == "RuntimeError: two lines"
    assert found.broken[1].error == "SystemExit: 3"
    assert found.broken[2].error.startswith("ModuleNotFoundError: No module named 'not_there")


def test_a_plugin_whose_hook_fails_when_called_is_a_row(tmp_path, monkeypatch):
    (tmp_path / "fails_when_called.py").write_text(
        "from diffrl import hookimpl\n"
        "@hookimpl\n"
        "def diffrl_losses():\n"
        "    import a_module_that_is_missing\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = Registry((), [point("late", "fails_when_called")])
    assert [b.name for b in found.broken] == ["late"]
    assert "a_module_that_is_missing" in found.broken[0].error


def test_an_unknown_name_says_which_plugins_are_not_loaded():
    found = Registry((), [point("gone", "not_there_at_all")])
    with pytest.raises(UnknownName, match=r"Not loaded: gone; `diffrl list-plugins` says why"):
        found.get("algorithm", "gone")


def test_a_plugin_can_be_removed_by_itself_or_by_name():
    found, plugin = Registry(), Brings(Flat)
    found.register(plugin)
    found.unregister(plugin)
    found.register(plugin, "again")
    found.unregister("again")
    assert found.components("loss") == {}


def test_a_plugin_name_is_taken_once():
    found = Registry()
    found.register(Brings(), "mine")
    with pytest.raises(PluginError, match="'mine' is registered already"):
        found.register(Brings(Flat), "mine")


def test_the_hooks_that_are_not_collected_are_called_through_the_registry():
    class Opens:
        @hookimpl
        def diffrl_open_prompts(self, ref):
            return ["a cat"] if ref == "cats" else None

    found = Registry()
    found.register(Opens(), "opens")
    assert found.hook.diffrl_open_prompts(ref="cats") == ["a cat"]
    assert found.hook.diffrl_open_prompts(ref="dogs") is None


def test_every_builtin_module_loads(fresh, monkeypatch):
    monkeypatch.setenv("DIFFRL_PLUGINS", "")
    found = fresh()
    assert found.broken == ()
    owners = {e.plugin for e in found.components("sampler").values()}
    assert owners == {"diffrl.builtin.samplers", "diffrl.builtin.stored"}
    assert len(BUILTINS) == 9


def test_the_environment_limits_which_plugins_load(fresh, monkeypatch):
    points = [point("gone", "not_there_at_all"), point("lost", "not_there_either")]
    monkeypatch.setattr("diffrl.registry.entry_points", lambda group: points)
    monkeypatch.setenv("DIFFRL_PLUGINS", "lost, loost")
    broken = {b.name: b.error for b in fresh().broken}
    assert "gone" not in broken
    assert "not_there_either" in broken["lost"]
    assert broken["loost"] == (
        "DIFFRL_PLUGINS names it, but it is not installed. Did you mean lost?"
    )


def test_a_plugin_may_be_any_object_with_hooks():
    found = Registry()
    found.register(SimpleNamespace(diffrl_losses=hookimpl(lambda: [])), "namespace")
    assert found.components("loss") == {}

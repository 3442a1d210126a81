"""Where each plugin comes from, and that what `DIFFRL_PLUGINS` leaves out is never imported."""

import json
import sys
from importlib.metadata import Distribution, EntryPoint

import pytest

from diffrl.cli.plugins import plugin_lines, plugins_json
from diffrl.errors import did_you_mean
from diffrl.origin import failed_at, of_module, of_point
from diffrl.registry import registry

PLUGIN = """
from typing import ClassVar
from diffrl import Loss, hookimpl

class {cls}(Loss):
    name: ClassVar[str] = "{cls}".lower()

@hookimpl
def diffrl_losses():
    return [{cls}]
"""


class Dist(Distribution):
    """As much of a distribution as is asked."""

    name, version = "some-package", "1.2"

    def __init__(self, told):
        self.told = told

    def read_text(self, name):
        assert name == "direct_url.json"
        return self.told

    def locate_file(self, path):
        raise AssertionError(path)


def point(name, value, told=None):
    made = EntryPoint(name, value, "diffrl")
    vars(made)["dist"] = Dist(None if told is None else json.dumps(told))
    return made


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Two plugins, of which each import leaves a trace; the registry is built anew."""
    for name in ("wanted", "unwanted"):
        (tmp_path / f"{name}_plugin.py").write_text(PLUGIN.format(cls=name.capitalize()))
    monkeypatch.syspath_prepend(str(tmp_path))
    told = {"url": "file:///src/a%20b", "dir_info": {"editable": True}}
    points = [point("wanted", "wanted_plugin", told), point("unwanted", "unwanted_plugin")]
    monkeypatch.setattr("diffrl.registry.entry_points", lambda group: points)
    registry.cache_clear()
    yield tmp_path
    registry.cache_clear()
    for name in ("wanted_plugin", "unwanted_plugin"):
        sys.modules.pop(name, None)


def test_a_plugin_that_is_left_out_is_never_imported(installed, monkeypatch):
    monkeypatch.setenv("DIFFRL_PLUGINS", "wanted")
    shown = "\n".join(plugin_lines(None)) + plugins_json(None)
    assert "wanted_plugin" in sys.modules and "unwanted_plugin" not in sys.modules
    assert "unwanted" not in shown
    registry.cache_clear()
    monkeypatch.setenv("DIFFRL_PLUGINS", "")
    assert list(registry().components("loss")) == []
    registry.cache_clear()
    monkeypatch.delenv("DIFFRL_PLUGINS")
    assert {"wanted", "unwanted"} <= set(registry().components("loss"))
    assert "unwanted_plugin" in sys.modules


def test_every_plugin_is_listed_with_package_version_and_origin(installed, monkeypatch):
    monkeypatch.delenv("DIFFRL_PLUGINS", raising=False)
    origin = f"{installed / 'wanted_plugin.py'}, editable, from /src/a b"
    (line,) = [line for line in plugin_lines(None) if line.startswith("wanted ")]
    assert line.split(None, 3)[1:] == ["some-package", "1.2", origin]
    told = json.loads(plugins_json(None))
    row = {"name": "wanted", "package": "some-package", "version": "1.2", "origin": origin}
    assert row in told["plugins"]
    (loss,) = [one for one in told["loss"] if one["plugin"] == "wanted"]
    assert loss["origin"] == origin
    assert any(one["name"] == "diffrl.builtin.samplers" for one in told["plugins"])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, ""),
        ({"url": "https://user:secret@host.example/x.whl?token=1"}, ", from host.example/x.whl"),
        (
            {"url": "https://host.example/r.git", "vcs_info": {"commit_id": "abcdef0123456789"}},
            ", from host.example/r.git at abcdef0123",
        ),
    ],
)
def test_an_origin_names_its_source_without_secrets(told, said):
    assert of_point(point("a", "no_such_module_here:x", told)) == f"nothing to import{said}"


def test_a_broken_plugin_is_told_with_its_origin(installed, monkeypatch):
    (installed / "wanted_plugin.py").write_text("import no_such_module_here")
    monkeypatch.setenv("DIFFRL_PLUGINS", "wanted")
    (broken,) = json.loads(plugins_json(None))["broken"]
    assert broken["origin"].startswith(str(installed / "wanted_plugin.py"))
    assert of_module("diffrl.builtin.samplers").partition(",")[0].endswith("__init__.py")


def test_a_failure_is_told_with_the_line_that_diffrl_called(tmp_path):
    def names():
        yield (tmp_path / "missing").read_text()

    with pytest.raises(OSError) as failed:
        did_you_mean("a", names())
    told = failed_at(failed.value)
    assert f"{__file__}:" in told and " in names (FileNotFoundError: [Errno 2]" in told
    with pytest.raises(OSError) as failed:
        next(names())
    assert "(FileNotFoundError: " in failed_at(failed.value)  # diffrl called nothing

"""A plugin opens what the built-in openers would refuse, and what it gives is looked at."""

from types import SimpleNamespace

import numpy
import pytest

from diffrl import hookimpl
from diffrl.errors import CheckpointMissing, DiffrlError, ModelIncomplete, PromptsError
from diffrl.evidence.subjects import subject
from diffrl.planning.refusal import refuse_what_cannot_fit
from diffrl.registry import registry
from diffrl.settings.resolve import resolve
from diffrl.trainer.opening import CALLED, check_reference, open_model, open_prompts
from diffrl.trainer.preflight import preflight


class Opener:
    """Opens whatever ends in `.mine`, as a test says."""

    model: object = SimpleNamespace(**dict.fromkeys(CALLED, "a part"))
    prompts: object = ()

    @hookimpl
    def diffrl_open_model(self, ref):
        return self.model if ref.endswith(".mine") else None

    @hookimpl
    def diffrl_open_prompts(self, ref):
        return self.prompts if ref.endswith(".mine") else None


@pytest.fixture
def opener():
    plugin = Opener()
    registry().register(plugin, "opener-for-tests")
    yield plugin
    registry().unregister(plugin)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.mine").write_text("weights of a layout of its own")
    return str(tmp_path / "model.mine")


def test_a_plugin_opens_a_file_that_the_built_in_opener_refuses(opener, file):
    settings = resolve("ddpo", ["pickscore"], sets=[f"model.ref={file}"])
    preflight(settings, None)
    refuse_what_cannot_fit(settings, ["a fox"])
    assert open_model(file) is opener.model


def test_a_plugin_opens_a_folder_and_a_name_that_are_judged(opener, tmp_path):
    folder = tmp_path / "folder.mine"
    folder.mkdir()
    for ref in (str(folder), "elsewhere:model.mine"):
        assert subject(ref, "bundled:pipeline").model == ref


def test_without_such_a_plugin_both_are_refused_as_before(file, tmp_path):
    with pytest.raises(ModelIncomplete, match="is a single file"):
        check_reference(file)
    with pytest.raises(DiffrlError, match="or a diffusers pipeline"):
        subject(str(tmp_path), "bundled:pipeline")
    with pytest.raises(DiffrlError, match="nothing is there"):
        subject("elsewhere:model.mine", "bundled:pipeline")


def test_the_built_in_opener_still_refuses_what_no_plugin_knows(opener, tmp_path):
    check_reference(str(tmp_path / "typo"))
    with pytest.raises(CheckpointMissing, match="no model at"):
        open_model(str(tmp_path / "typo"))


def test_a_pipeline_without_a_part_is_refused_in_one_line(opener):
    opener.model = SimpleNamespace(**dict.fromkeys(set(CALLED) - {"unet", "vae"}, "a part"))
    said = "plugin opener-for-tests gave SimpleNamespace, which lacks unet, vae; expected a Stable"
    with pytest.raises(ModelIncomplete, match=said):
        open_model("model.mine")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a fox", "gave str; expected a list of texts"),
        (numpy.array(["a fox"]), "gave ndarray; expected a list of texts"),
        (["a fox", 3], "gave 3 as number 2; expected a text"),
        ([], "the list is empty"),
    ],
)
def test_prompts_that_are_no_list_of_texts_are_refused(given, said, opener):
    opener.prompts = given
    with pytest.raises(PromptsError, match=said):
        open_prompts("list.mine")

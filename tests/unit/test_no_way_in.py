"""What no line of the code may do: read every file's syntax tree and look."""

import ast
from pathlib import Path

import pytest

import diffrl

ROOT = Path(diffrl.__file__).parent.parent
FILES = sorted(
    p for part in ("diffrl", "plugins", "benchmarks") for p in (ROOT / part).rglob("*.py")
)
FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "cloudpickle.load",
    "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open",
    "yaml.load", "yaml.unsafe_load", "pandas.read_pickle", "os.system", "os.popen",
    "eval", "exec", "__import__", "torch.hub.load", "shutil.unpack_archive",
}  # fmt: skip
NEEDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
}
HARMLESS = ("Tokenizer", "Processor", "Scheduler")
"""Classes that have no weights, so that nothing of theirs was ever pickled."""


def dotted(node):
    """Return `a.b.c` of a name, or nothing; of the last attribute alone where it is not plain."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def full_names(tree):
    """Return what each imported name stands for: `np` for numpy, `load` for pickle.load."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def said(call, name):
    """Return a keyword's constant value, or None."""
    found = [k.value for k in call.keywords if k.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def complaints(text):
    """Yield what is forbidden in a module, with its line."""
    tree = ast.parse(text)
    names = full_names(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, dot, rest = dotted(call.func).partition(".")
        name = names.get(first, first) + dot + rest
        where = f"line {call.lineno}: {name}"
        if name in FORBIDDEN:
            yield where
        if name in NEEDED and said(call, NEEDED[name][0]) is not NEEDED[name][1]:
            yield f"{where} without {NEEDED[name][0]}={NEEDED[name][1]}"
        for word in ("shell", "trust_remote_code", "allow_pickle"):
            if any(k.arg == word for k in call.keywords) and said(call, word) is not False:
                yield f"{where} with {word}"
        owner, _, method = name.rpartition(".")
        weightless = owner.endswith(HARMLESS)
        if method in ("from_pretrained", "load_lora_weights") and not weightless:
            if said(call, "use_safetensors") is not True:
                yield f"{where} without use_safetensors=True"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_file_unpickles_or_runs_what_came_from_outside(path):
    assert list(complaints(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle\npickle.loads(b'')",
        "from pickle import load\nload(file)",
        "import pickle as p\np.load(file)",
        "import torch\ntorch.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "import numpy as np\nnp.load(file)",
        "import numpy\nnumpy.load(file, allow_pickle=True)",
        "import yaml\nyaml.load(text)",
        "eval(text)",
        "import os\nos.system(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "Model.from_pretrained(ref)",
        "type(unet).from_pretrained(ref)",
        "pipeline.load_lora_weights(ref)",
        "AutoTokenizer.from_pretrained(ref, trust_remote_code=True)",
        "AutoTokenizer.from_pretrained(ref, trust_remote_code=given)",
    ],
)
def test_the_look_finds_each_of_them(text):
    assert len(list(complaints(text))) >= 1


def test_the_look_lets_safe_ones_pass():
    text = (
        "import torch, numpy\n"
        "torch.load(file, weights_only=True)\n"
        "numpy.load(file, allow_pickle=False)\n"
        "CLIPTokenizer.from_pretrained(ref)\n"
        "Model.from_pretrained(ref, use_safetensors=True)\n"
        "model.eval()\n"
    )
    assert list(complaints(text)) == []
    assert len(FILES) > 150

"""What references to models and prompts name: a plugin may know one before the built-in openers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffrl.builtin.models import PARTS, check_model
from diffrl.errors import ModelIncomplete, PromptsError, shown
from diffrl.registry import registry

CALLED = (*PARTS, "vae_scale_factor", "set_progress_bar_config")
"""What a run asks of a pipeline."""


def check_reference(ref: str) -> None:
    """Refuse a local model that lacks a part, unless a plugin may open what no built-in one does.

    Raises:
        ModelIncomplete: naming the parts.
        CheckpointMissing: if nothing is there.
    """
    if not registry().extending("diffrl_open_model"):
        check_model(ref)


def open_model(ref: str) -> Any:
    """Return the diffusers pipeline that a reference names, with all its parts.

    Raises:
        ModelIncomplete: if a plugin gave something else.
    """
    pipeline: Any = registry().hook.diffrl_open_model(ref=ref)
    if missing := [part for part in CALLED if getattr(pipeline, part, None) is None]:
        raise ModelIncomplete(
            f"the model {shown(ref)}: {_who('diffrl_open_model')} gave {type(pipeline).__name__}, "
            f"which lacks {', '.join(missing)}; expected a Stable Diffusion pipeline of diffusers"
        )
    return pipeline


def open_prompts(ref: str) -> tuple[str, ...]:
    """Return the prompts of a reference, never none.

    Raises:
        PromptsError: if no plugin knows the reference, or what one gave is no list of texts, or is
            empty.
    """
    prompts: Any = registry().hook.diffrl_open_prompts(ref=ref)
    if prompts is None:
        raise PromptsError(
            f"no prompts at {shown(ref)}: expected animals, unseen, a file with one prompt a line, "
            f"or a .jsonl of preferences"
        )
    who = _who("diffrl_open_prompts")
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        raise PromptsError(
            f"prompts {shown(ref)}: {who} gave {type(prompts).__name__}; expected a list of texts"
        )
    if not prompts:
        raise PromptsError(f"no prompts in {ref!r}: the list is empty")
    for number, one in enumerate(prompts, 1):
        if not isinstance(one, str):
            raise PromptsError(
                f"prompts {shown(ref)}: {who} gave {shown(one, 40)} as number {number}; expected "
                f"a text"
            )
    return tuple(prompts)


def _who(hook: str) -> str:
    """Return who may have answered a hook."""
    return f"plugin {' or '.join(registry().extending(hook))}"

"""The number format of a reward's model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

Precision = Literal["fp32", "bf16", "fp16"]


def precision() -> Any:
    """Return the field that every reward with a model has."""
    return Field(
        "fp32", description="Of the model; pictures are prepared and scores given in fp32."
    )

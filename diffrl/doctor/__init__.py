"""What can be wrong with a run although nothing stops it, looked for before it costs anything."""

from __future__ import annotations

from diffrl.doctor.checks import CHECKS, examine
from diffrl.doctor.finding import Finding
from diffrl.doctor.pictures import read_pictures

__all__ = ["CHECKS", "Finding", "examine", "read_pictures"]

"""Runs the command line: `python -m diffrl`."""

from __future__ import annotations

from diffrl.cli import main

if __name__ == "__main__":
    main()

"""Trains SDPO on all denoising steps, the last one too, at equal everything else.

    python -m benchmarks.sdpo_last_step [--seeds 3] [--jobs 2] [--folder ablations/sdpo-last-step]

Writes `benchmarks/results/sdpo_last_step.json`. The emoji preset leaves the last step out.
"""

from __future__ import annotations

import json

from benchmarks.zoo import RESULTS, arguments, measured


def main() -> None:
    """Run what is not finished yet, and write the result."""
    options = arguments(__doc__, "sdpo-last-step")
    result = measured(["--algo", "sdpo", "--vary", "skip_last=0"], options)
    (RESULTS / "sdpo_last_step.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print((options.folder / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()

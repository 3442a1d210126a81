"""Trains SDPO with its dense reward and with a terminal one, at equal everything else.

    python -m benchmarks.sdpo_reward [--seeds 3] [--jobs 2] [--folder ablations/sdpo-reward]

Writes `benchmarks/results/sdpo_reward.json`. The terminal reward is the score of the last predicted
picture, which is also what SDPO's last query scores.
"""

from __future__ import annotations

import json

from benchmarks.zoo import RESULTS, arguments, measured


def main() -> None:
    """Run what is not finished yet, and write the result."""
    options = arguments(__doc__, "sdpo-reward")
    options.set = [*options.set, "reward_predictor.decode=predicted"]
    result = measured(["--algo", "sdpo", "--vary", "reward_predictor=terminal"], options)
    (RESULTS / "sdpo_reward.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print((options.folder / "table.md").read_text("utf-8"))


if __name__ == "__main__":
    main()

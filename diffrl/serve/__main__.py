"""`python -m diffrl.serve package.module:function`: a reward served from a bare environment.

Needs torch, numpy, safetensors, starlette and uvicorn beside what the function needs; nothing else
of diffrl's requirements. Where all of diffrl is installed, `diffrl serve-reward` also knows names.
"""

from __future__ import annotations

import argparse
import os
import sys

from diffrl.errors import RewardError


def main() -> None:
    """Serve a function until interrupted; exit with 2 and one line if it cannot be."""
    parser = argparse.ArgumentParser(prog="python -m diffrl.serve", description=__doc__)
    parser.add_argument("function", metavar="PACKAGE.MODULE:FUNCTION")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_whole, default=8765)
    parser.add_argument("--batch", type=_whole, default=64, help="pictures in one call")
    parser.add_argument("--max-megabytes", type=_positive, default=256.0, help="of one question")
    given = parser.parse_args()
    from diffrl.functions import FunctionScorer, imported
    from diffrl.serve.client import TOKEN
    from diffrl.serve.server import Service, run

    try:
        function = imported(given.function)
        scorer = FunctionScorer(given.function, function)
        getattr(function, "load", lambda: None)()
        about = {
            "name": given.function,
            "scale": scorer.scale,
            "higher_is_better": scorer.higher_is_better,
            "groupwise": scorer.groupwise,
            "likes_noise": scorer.likes_noise,
        }
        service = Service(
            score=scorer,
            about=about,
            token=os.environ.get(TOKEN, ""),
            max_bytes=int(given.max_megabytes * 2**20),
            batch=given.batch,
            groupwise=scorer.groupwise,
        )
        run(service, given.host, given.port)
    except (RewardError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


if __name__ == "__main__":
    main()

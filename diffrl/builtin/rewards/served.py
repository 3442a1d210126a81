"""A reward in another process or on another machine: `--reward http://host:port`."""

from __future__ import annotations

import re
from functools import cache
from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt, create_model

from diffrl.errors import RewardError
from diffrl.stages import Reward, Scorer

URL = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[^/:@?#\s]+)(:\d+)?(/[^:@?#\s]*)?")
"""Nothing that could hold a secret: no user, no query."""


class ServedReward(Reward):
    """Asks a `diffrl serve-reward` for its scores. Pictures travel as 8-bit numbers, never pickled.

    The server tells the scale of its scores. A token, where it asks for one, is read from the
    environment variable `DIFFRL_REWARD_TOKEN`, and is never written down.
    """

    name: ClassVar[str] = "served"
    remote: ClassVar[bool] = True
    transport: ClassVar[tuple[str, ...]] = ("timeout", "attempts", "backoff")
    url: str = Field(pattern=f"^{URL.pattern}$", description="http://host:port of the server.")
    timeout: PositiveFloat = Field(120.0, description="Seconds that an answer may take.")
    attempts: PositiveInt = Field(5, description="How often a question is asked before giving up.")
    backoff: PositiveFloat = Field(0.5, description="Seconds to the second attempt; then doubled.")

    def problems(self) -> list[str]:
        """Return why the server cannot be used, if so; it is asked once, for 5 seconds at most."""
        from diffrl.serve.client import Client

        try:
            Client(self.url, timeout=5.0, attempts=1).info()
        except RewardError as error:
            return [f"{error}. Start one with: diffrl serve-reward NAME --port PORT"]
        return []

    def load(self, device: str) -> Scorer:
        """Return a scorer that asks the server."""
        from diffrl.serve.client import ServedScorer

        return ServedScorer(self.url, self.timeout, self.attempts, self.backoff)


def served_reward(url: str, name: str | None = None) -> type[Reward]:
    """Return a reward class for a server, called by its host and port unless a name is given."""
    host = re.sub(r"[^a-z0-9]+", "-", url.partition("://")[2].lower()).strip("-")
    return _made(url, name or f"served-{host}")


@cache  # what is made of the same words is one class, so that its rewards can be equal
def _made(url: str, own: str) -> type[Reward]:
    about = ServedReward.model_fields["url"].description
    field = Field(url, pattern=f"^{URL.pattern}$", description=about)
    made = create_model("ServedReward", __base__=ServedReward, url=(str, field))
    made.name = own  # pyright: ignore[reportAttributeAccessIssue]
    made.__doc__ = ServedReward.__doc__
    return made

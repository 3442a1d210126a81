"""Asking a reward service: timeouts, bounded retries, and no trust in what comes back."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffrl.errors import RewardError, RewardUnreachable, shown
from diffrl.serve.wire import API, MEDIA, Malformed, pack_question, read_answer

if TYPE_CHECKING:
    from torch import Tensor

TOKEN = "DIFFRL_REWARD_TOKEN"
CONNECT = 5.0
"""Seconds to reach the server, and for each block of a question to leave."""

LONGEST = 30.0
"""Seconds between two attempts, at most."""

OF_PICTURES = (400, 413, 500)
"""Answers that other pictures, or fewer of them, might not get."""

LARGEST = 3.4e38
"""Of a scale, as fp32 holds it."""

ANSWER = 2**20
"""Bytes of an answer, at most: two hundred thousand scores."""


class Client:
    """Speaks with one server, past any proxy.

    Args:
        url: `http://host:port`.
        timeout: seconds that an answer may take.
        attempts: how often a question is asked before giving up. Only silence and the server's own
            failures (5xx) are worth another attempt.
        backoff: seconds to the second attempt; doubled each time.

    Raises:
        RewardError: if the token in the environment cannot be sent.
    """

    def __init__(
        self, url: str, timeout: float = 120.0, attempts: int = 5, backoff: float = 0.5
    ) -> None:
        import requests

        self.url = url.rstrip("/")
        self._timeout, self._attempts, self._backoff = timeout, attempts, backoff
        self._session = requests.Session()
        self._session.trust_env = False  # or a proxy or .netrc would see, or replace, the token
        self._session.headers["Accept-Encoding"] = "identity"
        if token := os.environ.get(TOKEN):
            if not (token.isascii() and token.isprintable()):
                raise RewardError(f"{TOKEN} holds characters that cannot be sent; use plain ASCII")
            self._session.headers["Authorization"] = f"Bearer {token}"

    def info(self) -> dict[str, Any]:
        """Return what the server says of its reward.

        Raises:
            RewardError: if there is no such server, or it speaks another version.
        """
        import json

        try:
            found = json.loads(self._ask("GET", "/info"))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or "api" not in found:
            raise RewardError(f"reward server {self.url}: no diffrl reward is served there")
        if found["api"] != API:
            theirs = found["api"]
            raise RewardError(
                f"reward server {self.url}: speaks version {theirs!r}, expected {API}; "
                f"install the same diffrl on both sides"
            )
        return found

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the raw scores of pictures in [0, 1], on the CPU.

        Raises:
            RewardUnreachable: if the server stays silent, refuses, or answers something else.
            RewardError: if it fails for these pictures.
        """
        answer = self._ask("POST", "/score", pack_question(images, prompts))
        try:
            return read_answer(answer, len(images))
        except Malformed as error:
            raise RewardUnreachable(f"reward server {self.url}: {error}") from None

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Return the server's answer, asked for as often as is worth it."""
        import requests

        why, attempt, status = "", 0, 0
        for attempt in range(self._attempts):
            status = 0
            if attempt:
                time.sleep(min(self._backoff * 2 ** (attempt - 1), LONGEST))
            try:
                status, answer = self._once(method, path, body)
            except (requests.Timeout, TimeoutError):
                why = f"no answer within {self._timeout:g} s"
                continue
            except requests.RequestException as error:
                why = f"cannot be reached ({type(error).__name__})"
                continue
            if status == 200:
                return answer
            why = f"answered {status}{_reason(status, answer)}"
            if status < 500:
                break
        times = f" after {attempt + 1} attempts" if attempt else ""
        kind = RewardError if status in OF_PICTURES else RewardUnreachable
        raise kind(f"reward server {self.url}: {why}{times}")

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Return the status and the answer to one question.

        Raises:
            TimeoutError: if it drips in too slowly.
            requests.RequestException: if there is none, or it is cut off.
            RewardUnreachable: if it is too long.
        """
        answer = self._session.request(
            method,
            self.url + path,
            data=io.BytesIO(body) if body else None,  # whose blocks have CONNECT seconds each
            headers={"Content-Type": MEDIA} if body else None,
            timeout=(CONNECT, self._timeout),
            allow_redirects=False,
            stream=True,
        )
        with answer:
            return answer.status_code, self._body(answer.raw)

    def _body(self, raw: Any) -> bytes:
        """Return what a server answers, as it comes."""
        import requests
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        deadline, read = time.monotonic() + self._timeout, b""
        try:
            while part := raw.read1(2**16):  # what has come, without waiting for all of it
                read += part
                if len(read) > ANSWER:
                    raise RewardUnreachable(f"reward server {self.url}: its answer is too long")
                if time.monotonic() > deadline:
                    raise TimeoutError
        except ReadTimeoutError as error:
            raise TimeoutError from error
        except HTTPError as error:  # cut off in the middle
            raise requests.ConnectionError(error) from error
        return read


class ServedScorer:
    """A served reward as a scorer; the server tells its scale."""

    def __init__(self, url: str, timeout: float, attempts: int, backoff: float) -> None:
        self._client = Client(url, timeout, attempts, backoff)
        about = self._client.info()
        self.scale = _number(about.get("scale", 1.0), url)
        self.higher_is_better = _truth(about, "higher_is_better", True, url)
        self.groupwise = _truth(about, "groupwise", False, url)
        self.likes_noise = _truth(about, "likes_noise", False, url)
        self.differentiable = False

    def __call__(self, images: Tensor, text: Sequence[str]) -> Tensor:
        """Return the scores where the pictures are."""
        return self._client.score(images, text).to(images.device)


def _reason(status: int, answer: bytes) -> str:
    import json

    try:
        why = json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    told = "".join(c if c.isprintable() else "?" for c in str(why))[:200]
    hint = f"; set {TOKEN}" if status == 401 else ""
    return f": {told}{hint}"


def _number(value: object, url: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 < abs(value) <= LARGEST:
            return float(value)
    raise RewardError(f"reward server {url}: its scale is {shown(value)}, expected a number")


def _truth(about: dict[str, Any], name: str, otherwise: bool, url: str) -> bool:
    value = about.get(name, otherwise)
    if isinstance(value, bool):
        return value
    raise RewardError(f"reward server {url}: {name} is {value!r}, expected true or false")

"""The service: scores pictures for any number of clients, several questions in one call."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from diffrl.serve.batching import Batcher, Miscounted, Overloaded, Unanswered
from diffrl.serve.wire import API, MEDIA, Malformed, pack_answer, read_question

if TYPE_CHECKING:
    from torch import Tensor

Score = Callable[["Tensor", Sequence[str]], "Tensor"]


LOOK = 0.1
"""Seconds between two looks at whether who asked is still there."""

CONNECTIONS = 128
"""That are served at a time; others are told to come back."""


@dataclass(frozen=True)
class Service:
    """A reward and what may be asked of it.

    Args:
        score: pictures in [0, 1] and prompts to raw scores.
        about: what clients are told: name, scale, higher_is_better, licence, checkpoint.
        token: that clients must send; empty: none.
        max_bytes: of one question.
        batch: pictures in one call of `score`.
        wait: seconds that a question waits for others to share its call.
        waiting: questions that may wait; further ones are told to come back.
        patience: seconds that a question may take to come in.
        groupwise: whether the reward compares pictures, so that each question is a call.
    """

    score: Score
    about: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""
    max_bytes: int = 256 * 2**20
    batch: int = 64
    wait: float = 0.005
    waiting: int = 32
    patience: float = 60.0
    groupwise: bool = False


def application(service: Service) -> Starlette:
    """Return the service as an ASGI application: POST /score, GET /info and /health."""
    batcher = Batcher(
        service.score, service.batch, service.wait, service.waiting, service.groupwise
    )

    async def score(request: Request) -> Response:
        if (refused := _unauthorised(request, service.token)) is not None:
            return refused
        if request.headers.get("content-type", "").partition(";")[0].strip() != MEDIA:
            return _refuse(415, f"expected {MEDIA}")
        try:
            body = await asyncio.wait_for(_body(request, service.max_bytes), service.patience)
        except (asyncio.TimeoutError, ClientDisconnect):
            return _refuse(408, f"expected the question within {service.patience:g} s")
        if body is None:
            limit = service.max_bytes / 2**20
            return _refuse(413, f"expected at most {limit:g} MiB; send fewer pictures at a time")
        try:
            scores = await _while_there(request, batcher.ask(*read_question(body)))
        except Malformed as error:
            return _refuse(400, str(error))
        except ClientDisconnect:
            return _refuse(499, "who asked has gone")
        except Miscounted as error:
            return _refuse(502, f"the reward gave {error}")
        except Overloaded:
            return _refuse(503, "too many questions wait already; ask again later")
        except Unanswered as error:
            return _refuse(500, f"the reward failed: {error}")
        return Response(pack_answer(scores), media_type=MEDIA)

    async def info(request: Request) -> Response:
        if (refused := _unauthorised(request, service.token)) is not None:
            return refused
        return JSONResponse({"api": API, "max_bytes": service.max_bytes, **service.about})

    async def health(request: Request) -> Response:
        if not batcher.alive:
            return JSONResponse({"status": "dead"}, status_code=503)
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/score", score, methods=["POST"]),
            Route("/info", info),
            Route("/health", health),
        ],
        lifespan=batcher.running,
    )


def run(service: Service, host: str, port: int) -> None:
    """Serve until interrupted.

    Raises:
        ValueError: if other machines could connect and no token is asked for, or the address cannot
            be had.
    """
    import uvicorn

    if not service.token and not is_loopback(host):
        raise ValueError(
            f"{host} can be reached by other machines; give a token that clients must send"
        )
    try:
        socket.create_server((host, port), family=family(host)).close()
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port} ({error.strerror or error})") from None
    shown = f"[{host}]" if ":" in host else host  # as addresses of IPv6 are written
    print(f"serving {service.about.get('name', 'a reward')} on http://{shown}:{port}", flush=True)
    uvicorn.run(
        application(service),
        host=host,
        port=port,
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
    )


def family(host: str) -> socket.AddressFamily:
    """Return the kind of a host's address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to a host's address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unauthorised(request: Request, token: str) -> Response | None:
    sent = request.headers.get("authorization", "")
    if not token or hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
        return None
    return _refuse(401, "expected the right token")


async def _body(request: Request, limit: int) -> bytes | None:
    """Return what was sent, or None as soon as it is more than may be."""
    try:
        announced = int(request.headers.get("content-length", "0"))
    except ValueError:
        announced = 0
    if announced > limit:
        return None
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


async def _while_there(request: Request, asked: Coroutine[Any, Any, Tensor]) -> Tensor:
    """Return the scores, unless who asked goes away before.

    Raises:
        ClientDisconnect: if so; the question is taken back.
    """
    task = asyncio.ensure_future(asked)
    while not (await asyncio.wait({task}, timeout=LOOK))[0]:
        if await request.is_disconnected():
            task.cancel()
            raise ClientDisconnect
    return task.result()


def _refuse(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status_code=status)

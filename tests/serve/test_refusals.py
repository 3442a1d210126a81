"""What the service refuses, and that a refusal tells nothing of the machine."""

import asyncio
import json
import re
import socket
import struct
import threading
import time

import pytest
import requests
import torch
from safetensors.torch import save

from diffrl.errors import RewardUnreachable
from diffrl.serve.client import Client
from diffrl.serve.server import Service, application
from diffrl.serve.wire import MEDIA, Malformed, pack_question, read_answer, read_question

TOKEN = "open sesame"
LEAKS = re.compile(
    r"Traceback|File \"|/home|/root|/tmp|site-packages|\.py|sesame|torch\.|starlette"
)


def question(count=1, side=4):
    return pack_question(torch.rand(count, 3, side, side), ["a"] * count)


def with_header(header, data=b""):
    """Return bytes that announce a safetensors header of any shape."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data


def tensor(shape, end, kind="U8"):
    prompts = {"prompts": '["a"]'}
    return {
        "__metadata__": prompts,
        "images": {"dtype": kind, "shape": shape, "data_offsets": [0, end]},
    }


DEEP = b"[" * 200_000
QUESTIONS = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a header that is longer than the body": struct.pack("<Q", 2**62) + b"{}",
    "a negative header": struct.pack("<q", -1) + b"{}",
    "no JSON": with_header(b"\xff\xfe\0"),
    "deep JSON": with_header(DEEP),
    "deep prompts": save({"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)},
                         {"prompts": DEEP.decode()}),
    "a list for a header": with_header([1]),
    "metadata of another kind": with_header({**tensor([1, 3, 1, 1], 3), "__metadata__": 3}, b"abc"),
    "a negative size": with_header(tensor([1, 3, -4, -4], 48), b"\0" * 48),
    "a huge size": with_header(tensor([2**40, 3, 4096, 4096], 48), b"\0" * 48),
    "a size that overflows": with_header(tensor([2**63, 2**63, 2, 2], 0)),
    "more than is there": with_header(tensor([1, 3, 4, 4], 4800), b"\0" * 48),
    "a type that nobody knows": with_header(tensor([1, 3, 4, 4], 48, "U9000"), b"\0" * 48),
    "no picture": save({"images": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, {"prompts": "[]"}),
    "a huge picture": save({"images": torch.zeros(1, 3, 4097, 1025, dtype=torch.uint8)},
                           {"prompts": '["a"]'}),
    "a number as a prompt": save({"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)},
                                 {"prompts": "[1]"}),
    "a long prompt": save({"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)},
                          {"prompts": json.dumps(["a" * 10_001])}),
    "a name that is long": save({"x" * 100_000: torch.zeros(1)}, {"prompts": '["a"]'}),
}  # fmt: skip


@pytest.mark.parametrize("body", QUESTIONS.values(), ids=list(QUESTIONS))
def test_every_malformed_question_is_one_short_refusal(body):
    with pytest.raises(Malformed) as refused:
        read_question(body)
    assert len(str(refused.value)) < 200 and not LEAKS.search(str(refused.value))


@pytest.mark.parametrize("body", [b"", with_header(DEEP), with_header([1]), b"\xff" * 99])
def test_a_lying_server_cannot_crash_the_client_either(body):
    with pytest.raises(Malformed):
        read_answer(body, 1)


HEAD = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    "short": (HEAD + b"Content-Length: 100\r\n\r\n{", "cannot be reached (ConnectionError)"),
    "cut": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{", "cannot be reached (Connection"),
    "stalled": (HEAD + b"Content-Length: 100\r\n\r\n{", "no answer within 1 s"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_answer_that_breaks_off_is_asked_for_again(how):
    said, answered, held = BROKEN[how], [], []

    def answer():
        while len(answered) < 2:
            wire, _ = listening.accept()
            wire.recv(65536)
            wire.sendall(said[0])
            answered.append(how)
            held.append(wire) if how == "stalled" else wire.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(RewardUnreachable, match=re.escape(said[1]) + ".* after 2 attempts"):
            Client(url, timeout=1.0, attempts=2, backoff=0.01).info()
        thread.join(5)
    for wire in held:
        wire.close()
    assert len(answered) == 2


@pytest.fixture
def server(serve):
    return serve("bright", "--max-megabytes", "1", DIFFRL_REWARD_TOKEN=TOKEN)


def told(server, *lines, body=b""):
    """Return the status and text that raw bytes are answered with."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as wire:
        wire.sendall("\r\n".join([*lines, "Host: x", "", ""]).encode() + body)
        wire.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: wire.recv(65536), b"")).decode("latin-1")
    return int(answer.split()[1]) if answer else 0, answer


def test_refusals_over_the_wire_tell_nothing(server):
    post, known = f"{server.url}/score", {"Authorization": f"Bearer {TOKEN}", "Content-Type": MEDIA}
    asked = [
        (401, {"data": question()}),
        (401, {"data": question(), "headers": {"Authorization": "Bearer öpen".encode()}}),
        (401, {"data": b"x" * 2**21}),
        (413, {"data": b"x" * 2**21, "headers": known}),
        (413, {"data": iter([b"x" * 2**20, b"y"]), "headers": known}),
        (415, {"data": question(), "headers": {**known, "Content-Type": "application/json"}}),
        (400, {"data": QUESTIONS["deep JSON"], "headers": known}),
        (400, {"data": b"", "headers": known}),
    ]
    for status, given in asked:
        answer = requests.post(post, timeout=10, **given)
        assert answer.status_code == status, given
        assert not LEAKS.search(answer.text) and len(answer.text) < 300
        assert set(answer.json()) == {"error"}
    for path in ("/", "/score/../info", "/docs", "/openapi.json", "/../../etc/passwd"):
        answer = requests.get(server.url + path, timeout=5, headers=known)
        assert answer.status_code in (200, 404, 405) and not LEAKS.search(answer.text)
    head = ["POST /score HTTP/1.1", f"Authorization: Bearer {TOKEN}", f"Content-Type: {MEDIA}"]
    for length in ("-1", "many", "9" * 40):
        status, text = told(server, *head, f"Content-Length: {length}")
        assert status in (0, 400, 413) and not LEAKS.search(text)
    token = {"Authorization": f"Bearer {TOKEN}", "Content-Type": MEDIA}
    assert requests.post(post, data=question(), headers=token, timeout=10).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for():
    service = Service(lambda i, p: i.mean((1, 2, 3)), patience=0.2)
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/score", "raw_path": b"/score", "root_path": "", "query_string": b"",
        "headers": [(b"content-type", MEDIA.encode())], "server": ("x", 80), "client": ("y", 1),
    }  # fmt: skip
    pieces = [{"type": "http.request", "body": b"x", "more_body": True}]
    sent = []

    async def receive():
        if not pieces:
            await asyncio.sleep(30)
        return pieces.pop()

    async def send(message):
        sent.append(message)

    began = time.monotonic()
    asyncio.run(application(service)(scope, receive, send))
    assert sent[0]["status"] == 408 and time.monotonic() - began < 5


def test_others_are_answered_while_one_is_slow(server, monkeypatch):
    monkeypatch.setenv("DIFFRL_REWARD_TOKEN", TOKEN)
    slow = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA}\r\n"
    slow.sendall(f"{head}Authorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\nab".encode())
    assert Client(server.url).score(torch.rand(1, 3, 4, 4), ["a"]).shape == (1,)
    slow.close()
    assert Client(server.url).score(torch.rand(1, 3, 4, 4), ["a"]).shape == (1,)


def test_tokens_are_compared_in_constant_time(monkeypatch):
    import hmac

    from starlette.testclient import TestClient

    compared = []
    usual = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or usual(a, b))
    app = application(Service(lambda i, p: i.mean((1, 2, 3)), token=TOKEN))
    with TestClient(app) as client:
        assert client.get("/info", headers={"Authorization": "Bearer no"}).status_code == 401
    assert compared == [(b"Bearer no", f"Bearer {TOKEN}".encode())]

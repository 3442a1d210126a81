"""The service as any client may find it: a real process, asked well and badly."""

import contextlib
import json
import pickle
import socket
import subprocess
import sys
import threading
import time

import pytest
import requests
import torch
from safetensors.torch import save

import diffrl.serve.client as client_module
from diffrl.builtin.rewards.served import served_reward
from diffrl.errors import RewardError, RewardUnreachable
from diffrl.scoring import ScoredBy, finite_or_nan
from diffrl.serve.batching import Batcher, Overloaded, Unanswered
from diffrl.serve.client import Client, ServedScorer
from diffrl.serve.server import Service, is_loopback, run
from diffrl.serve.wire import MEDIA, Malformed, pack_question, read_answer, read_question

KIND = {"Content-Type": MEDIA}


def expected(images, prompts):
    levels = (images * 255).round() / 255
    return levels.mean((1, 2, 3)) + 0.01 * torch.tensor([float(len(p)) for p in prompts])


def test_scores_health_and_info(serve):
    server = serve("bright")
    assert requests.get(f"{server.url}/health", timeout=5).json() == {"status": "ok"}
    about = Client(server.url).info()
    assert (about["name"], about["scale"], about["api"]) == ("scorers:bright", 10.0, 1)
    images, prompts = torch.rand(5, 3, 8, 8), ["a", "bb", "", "ü", "e" * 99]
    scorer = ServedScorer(server.url, 10.0, 1, 0.1)
    assert scorer.scale == 10
    assert torch.allclose(scorer(images, prompts), expected(images, prompts), atol=1e-6)


def test_clients_of_pictures_of_different_sizes_get_their_own_scores(serve):
    server = serve("bright")
    failed = []

    def ask(seed):
        images = torch.rand(3 + seed % 3, 3, 8 + 4 * (seed % 2), 8)
        prompts = [f"{seed}"] * len(images)
        scores = Client(server.url).score(images, prompts)
        if not torch.allclose(scores, expected(images, prompts), atol=1e-6):
            failed.append(seed)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_a_token_keeps_strangers_out(serve, monkeypatch):
    server = serve("bright", DIFFRL_REWARD_TOKEN="open sesame")
    body = pack_question(torch.rand(1, 3, 4, 4), ["a"])
    for headers in ({}, {"Authorization": "Bearer open"}, {"Authorization": "open sesame"}):
        for method, path in (("GET", "/info"), ("POST", "/score")):
            url = f"{server.url}{path}"
            answer = requests.request(method, url, data=body, headers=headers, timeout=5)
            assert answer.status_code == 401
            assert "sesame" not in answer.text
    with pytest.raises(RewardError, match=r"answered 401.*; set DIFFRL_REWARD_TOKEN$"):
        Client(server.url).info()
    monkeypatch.setenv("DIFFRL_REWARD_TOKEN", "open sesame")
    assert Client(server.url).score(torch.rand(1, 3, 4, 4), ["a"]).shape == (1,)


def raw(**tensors):
    return save(tensors, {"prompts": json.dumps(["a"])})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "expected safetensors"),
        (b"\x80\x04", "expected safetensors"),
        (pickle.dumps({"images": 1}), "expected safetensors"),
        (b"\xff" * 64, "expected safetensors"),
        (raw(images=torch.zeros(1, 3, 4, 4)), "8-bit"),
        (raw(images=torch.zeros(1, 4, 4, dtype=torch.uint8)), "shape b 3 h w"),
        (raw(pictures=torch.zeros(1, 3, 4, 4, dtype=torch.uint8)), "one tensor called 'images'"),
        (raw(images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), "one prompt a picture, got 1"),
        (save({"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)}), "prompts as JSON"),
        (raw(images=torch.zeros(1, 3, 1, 3000, dtype=torch.uint8)), "at most 8 × the other"),
        (raw(images=torch.zeros(1, 3, 0, 0, dtype=torch.uint8)), "sides of at most 4096"),
    ],
)  # fmt: skip
def test_a_malformed_question_is_refused_by_name(body, why):
    with pytest.raises(Malformed, match=why):
        read_question(body)


def test_the_service_survives_bad_questions_and_tells_nothing(serve):
    server = serve("bright", "--max-megabytes", "0.01")
    post = f"{server.url}/score"
    assert requests.post(post, data=pickle.dumps([1]), headers=KIND, timeout=5).status_code == 400
    large = pack_question(torch.rand(4, 3, 64, 64), ["a"] * 4)
    assert requests.post(post, data=large, headers=KIND, timeout=5).status_code == 413
    chunks = (large[i : i + 1000] for i in range(0, len(large), 1000))  # its length unannounced
    assert requests.post(post, data=chunks, headers=KIND, timeout=5).status_code == 413
    assert requests.get(post, timeout=5).status_code == 405
    assert requests.get(f"{server.url}/nothing", timeout=5).status_code == 404
    assert Client(server.url).score(torch.rand(1, 3, 4, 4), ["a"]).shape == (1,)


def test_a_failing_reward_keeps_its_secrets(serve):
    server = serve("raises")
    answer = requests.post(
        f"{server.url}/score",
        data=pack_question(torch.rand(1, 3, 4, 4), ["a"]),
        headers=KIND,
        timeout=5,
    )
    assert answer.status_code == 500
    assert answer.json() == {"error": "the reward failed: RuntimeError"}


def test_a_slow_answer_is_asked_for_again(serve):
    server = serve("slow_twice")
    client = Client(server.url, timeout=1.0, attempts=8, backoff=0.2)
    assert client.score(torch.rand(2, 3, 4, 4), ["a", "b"]).shape == (2,)


def test_a_question_that_nobody_waits_for_is_not_computed(serve, tmp_path):
    server = serve("slow")
    with pytest.raises(RewardUnreachable, match=r"no answer within 0\.4 s after 3 attempts"):
        Client(server.url, timeout=0.4, attempts=3, backoff=0.01).score(torch.rand(1, 3, 4, 4), "a")
    assert Client(server.url).score(torch.rand(1, 3, 4, 4), ["a"]).shape == (1,)
    assert (tmp_path / "slow").read_text() == "2"  # the first, which had begun, and the last


def test_a_picture_that_the_reward_fails_for_spoils_no_other(serve):
    client = ScoredBy.load(served_reward(serve("picky").url, "picky")(attempts=1), "cpu", 1.0)
    score = finite_or_nan(client, torch.rand(3, 3, 4, 4), ["a", "bad", "c"])
    assert score.isnan().tolist() == [False, True, False]
    client = ScoredBy.load(served_reward(serve("too_few").url, "few")(attempts=1), "cpu", 1.0)
    with pytest.raises(RewardUnreachable, match=r"answered 502: the reward gave shape \(2,\)"):
        finite_or_nan(client, torch.rand(3, 3, 4, 4), ["a", "b", "c"])


def test_a_question_may_take_its_time_to_leave(free_port, monkeypatch):
    """Where the network is slow, each block has a while of its own."""
    monkeypatch.setattr(client_module, "CONNECT", 0.5)
    body = pack_question(torch.rand(8, 3, 512, 512), ["a"] * 8)
    answer = save({"scores": torch.ones(8)})

    def drain(listening):
        taken, seen = listening.accept()[0], b""
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        while len(seen) < len(body):
            seen += taken.recv(2**18)
            time.sleep(0.05)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n"
        taken.sendall(head.encode() + answer)
        taken.close()

    with socket.create_server(("127.0.0.1", free_port)) as listening:
        threading.Thread(target=drain, args=(listening,), daemon=True).start()
        began, client = time.monotonic(), Client(f"http://127.0.0.1:{free_port}", attempts=1)
        assert client.score(torch.rand(8, 3, 512, 512), ["a"] * 8).tolist() == [1.0] * 8
    assert time.monotonic() - began > 2 * client_module.CONNECT


def test_an_answer_that_drips_in_has_no_more_time_than_any_other(free_port):
    answer = save({"scores": torch.ones(1)})

    def drip(listening):
        taken, seen = listening.accept()[0], b""
        while b"images" not in seen:
            seen += taken.recv(2**16)
        taken.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode())
        with contextlib.suppress(OSError):  # the client has given up
            for one in answer:
                time.sleep(0.1)
                taken.sendall(bytes([one]))
        taken.close()

    with socket.create_server(("127.0.0.1", free_port)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        began = time.monotonic()
        client = Client(f"http://127.0.0.1:{free_port}", timeout=1.0, attempts=1)
        with pytest.raises(RewardError, match="no answer within 1 s"):
            client.score(torch.rand(1, 3, 4, 4), ["a"])
    assert time.monotonic() - began < 0.1 * len(answer) / 2


@pytest.mark.parametrize("scale", [10**400, 1e39, 0, float("nan"), True, "1"])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(RewardError, match=r"its scale is .*, expected a number"):
        client_module._number(scale, "http://127.0.0.1:1")


def test_giving_up_says_how_often_and_why(free_port):
    with pytest.raises(
        RewardError, match=r"cannot be reached \(ConnectionError\) after 3 attempts"
    ):
        Client(f"http://127.0.0.1:{free_port}", attempts=3, backoff=0.01).info()


@pytest.mark.parametrize("scores", [torch.zeros(2), torch.zeros(3).double(), torch.zeros(3, 1)])
def test_a_lying_server_is_caught(scores):
    with pytest.raises(Malformed, match="expected 3 scores"):
        read_answer(save({"scores": scores}), 3)


def test_something_else_at_the_address_is_no_reward_server(free_port, tmp_path):
    other = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(free_port), "--bind", "127.0.0.1"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with pytest.raises(RewardError, match="answered 404"):
            client = Client(f"http://127.0.0.1:{free_port}", attempts=20, backoff=0.1)
            client.info()
    finally:
        other.kill()
        other.wait()


def test_only_this_machine_without_a_token():
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org")))
    with pytest.raises(ValueError, match="give a token"):
        run(Service(expected), "0.0.0.0", 1)


def test_questions_that_wait_share_a_call():
    import asyncio

    calls = []

    def score(images, prompts):
        calls.append(len(images))
        if "bad" in prompts:
            raise StopIteration  # which no future passes on
        return images.mean((1, 2, 3))

    async def ask_all():
        batcher = Batcher(score, batch=64, wait=0.05, waiting=99)
        async with batcher.running():
            pictures = [torch.full((2, 3, 2, 2), 51 * i, dtype=torch.uint8) for i in range(5)]
            questions = [(one, ["a"] * 2) for one in pictures]
            questions.append((pictures[0][:1], ["bad"]))
            asked = [batcher.ask(*q) for q in questions]
            return await asyncio.gather(*asked, return_exceptions=True)

    *scores, bad = asyncio.run(ask_all())
    assert calls[0] == 11  # together, then one by one, because one of them is bad
    assert all(torch.allclose(s, torch.full((2,), i / 5)) for i, s in enumerate(scores))
    assert isinstance(bad, Unanswered) and str(bad) == "StopIteration"


def test_a_reward_that_ends_its_thread_ends_no_server():
    import asyncio

    class Panic(BaseException):
        """As extensions written in Rust raise it."""

    calls = []

    def score(images, prompts):
        calls.append(len(images))
        if len(calls) == 1:
            raise Panic
        return images.mean((1, 2, 3))

    async def ask_twice():
        batcher = Batcher(score, batch=64, wait=0.0, waiting=99)
        picture = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
        async with batcher.running():
            with pytest.raises(Unanswered, match="Panic"):
                await asyncio.wait_for(batcher.ask(picture, ["a"]), 10)
            scores = await asyncio.wait_for(batcher.ask(picture, ["a"]), 10)
        with pytest.raises(Overloaded):  # where nobody answers any more
            await asyncio.wait_for(batcher.ask(picture, ["a"]), 10)
        return scores

    assert asyncio.run(ask_twice()).tolist() == pytest.approx([0.2])


def test_a_reward_that_compares_has_each_question_alone(serve):
    scorer = ServedScorer(serve("best", "--batch", "2").url, 10.0, 1, 0.1)
    assert scorer.groupwise
    answers = {}

    def ask(seed):
        images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        answers[seed] = sorted(scorer(images, ["a"] * 5).tolist())

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: [0.0, 1.0, 2.0, 3.0, 4.0] for i in range(6)}


def test_the_service_loads_nothing_but_what_it_needs():
    script = (
        "import sys; import diffrl.serve.server, diffrl.serve.__main__, diffrl.functions; "
        "print([n for n in ('pydantic', 'pluggy', 'typer', 'rich', 'jaxtyping', 'diffusers', "
        "'transformers', 'accelerate', 'peft') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

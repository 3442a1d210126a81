"""Fixtures of served rewards."""

import socket
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from servers import Server


@pytest.fixture
def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def serve(tmp_path, free_port):
    """Starts servers one after the other, at one port; stops what still runs."""
    running = []

    def start(function, *options, **environment):
        for server in running:
            server.stop()
        running.append(Server(f"scorers:{function}", tmp_path, free_port, *options, **environment))
        return running[-1]

    yield start
    for server in running:
        server.stop()

"""Real servers in processes of their own."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

import diffrl

HERE = Path(__file__).parent
ROOT = Path(diffrl.__file__).parent.parent


class Server:
    """A running `python -m diffrl.serve`."""

    def __init__(self, function, folder, port, *options, **environment):
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        paths = os.pathsep.join([str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "diffrl.serve", function, "--port", str(port), *options],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": paths, "COUNT_IN": str(folder), **environment},
        )
        for _ in range(300):
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}")
            try:
                requests.get(f"{self.url}/health", timeout=1)
                return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise RuntimeError("the server does not answer")

    def stop(self):
        self._process.kill()
        self._process.wait()


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

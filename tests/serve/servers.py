"""Real servers in processes of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

import requests

import diffrl

HERE = Path(__file__).parent
ROOT = Path(diffrl.__file__).parent.parent
PATHS = [str(HERE), str(ROOT), os.environ.get("PYTHONPATH", "")]


class Server:
    """A running `python -m diffrl.serve`."""

    def __init__(
        self, function, folder, port, *options, python=sys.executable, paths=PATHS, **environment
    ):
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [str(python), "-m", "diffrl.serve", function, "--port", str(port), *options],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(paths),
                "COUNT_IN": str(folder),
                **environment,
            },
        )
        for _ in range(900):
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

"""A server of the kind under test, for as long as a test needs it. ETCD_BIN names the binary."""

import os
import pathlib
import socket
import subprocess
import tempfile
import time

PATIENCE_S = 30


def free_ports():
    """Two ports that differ, since both are held until both are known."""
    with socket.socket() as one, socket.socket() as two:
        for held in (one, two):
            held.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


class Server:
    def __init__(self):
        self.port, peer = free_ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self._dir = tempfile.TemporaryDirectory(prefix="interop-")
        peer_url = f"http://127.0.0.1:{peer}"
        self._command = [
            os.environ["ETCD_BIN"], "--name=m", f"--data-dir={self._dir.name}/data", "--log-level=error",
            f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=m={peer_url}",
        ]

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()
        self._dir.cleanup()

    def start(self):
        with open(pathlib.Path(self._dir.name) / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        eventually(self._listens)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def restart(self):
        self.kill()
        self.start()

    def _listens(self):
        if self._process.poll() is not None:
            raise RuntimeError("the server ended: " + (pathlib.Path(self._dir.name) / "log").read_text())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def eventually(holds):
    """Waits until `holds()` is true, and returns what it returned."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        result = holds()
        if result:
            return result
        assert time.monotonic() < deadline, f"not true after {PATIENCE_S} s"
        time.sleep(0.02)

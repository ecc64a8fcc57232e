"""Runs a command while a server serves on free ports, in a directory of its own; ends it afterwards.

The command sees TOOZ_TEST_ETCD_PORT and TOOZ_TEST_HTTP_URL, and `{url}` in its words is replaced.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

PATIENCE = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_until_healthy(server, url, log):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.05)
    log.seek(0)
    sys.exit(f"the server does not serve; it says:\n{log.read().decode(errors='replace')}")


def main():
    client, peer = free_port(), free_port()
    url, peer_url = f"http://localhost:{client}", f"http://localhost:{peer}"
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [
                os.environ["ETCD_BIN"],
                *("--name", "m1", "--data-dir", f"{directory}/data"),
                *("--listen-client-urls", url, "--advertise-client-urls", url),
                *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
                *("--initial-cluster", f"m1={peer_url}"),
            ],
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_healthy(server, url, log)
            environment = os.environ | {"TOOZ_TEST_ETCD_PORT": str(client), "TOOZ_TEST_HTTP_URL": url}
            command = [word.replace("{url}", url) for word in sys.argv[1:]]
            code = subprocess.run(command, env=environment, check=False).returncode
            if server.poll() is not None:
                sys.exit("the server has not survived")
        finally:
            server.kill()
            server.wait()
    sys.exit(code)


if __name__ == "__main__":
    main()

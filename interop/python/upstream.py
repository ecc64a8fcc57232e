"""A pytest plugin that runs the client's own tests against the server under test.

They come with the source distribution of the client. They look into the server with `etcdctl`, which stands beside
the server or is named by ETCDCTL_BIN, and run on one server, one after the other.
"""

import os
import pathlib
import tempfile

import etcd3
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.detection import is_hypothesis_test

import server

# What is left out, by the name of the test, and why.
CLUSTER = "stops members of a cluster of three that the client's own harness starts"
SKIPPED = {
    "test_get_key_serializable": CLUSTER,
    "test_get_prefix_serializable": CLUSTER,
    "test_member_list": "counts the members of a cluster of three that the client's own harness starts",
    "test_snapshot": "checks the file with `etcdctl snapshot status`, which etcd 3.6 removed",
    "test_user_pwd_auth": "mocks a module by a name that only Python 2 resolves",
}


def pytest_configure(config):
    config.server = server.Server().__enter__()
    config.tools = tempfile.TemporaryDirectory(prefix="interop-tools-")
    etcdctl = pathlib.Path(os.environ.get("ETCDCTL_BIN") or pathlib.Path(os.environ["ETCD_BIN"]).parent / "etcdctl")
    (pathlib.Path(config.tools.name) / "etcdctl").symlink_to(etcdctl.resolve(strict=True))
    os.environ["PATH"] = config.tools.name + os.pathsep + os.environ["PATH"]
    os.environ["PYTHON_ETCD_HTTP_URL"] = config.server.url
    os.environ["TEST_ETCD_VERSION"] = "v3.5.0"
    # Some tests take the address of the server from the environment, others the client's default port.
    etcd3.client.__defaults__ = ("127.0.0.1", config.server.port) + etcd3.client.__defaults__[2:]


def pytest_unconfigure(config):
    config.server.__exit__()
    config.tools.cleanup()


def pytest_collection_modifyitems(items):
    # Every example calls etcdctl, so a few must do, and the newest hypothesis frowns on fixtures that live longer
    # than an example.
    few = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
    for item in items:
        if is_hypothesis_test(item.function):
            few(item.function)
        reason = SKIPPED.get(item.originalname)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))

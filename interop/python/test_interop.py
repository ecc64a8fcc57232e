"""What users of the Python client `etcd3` do, against the server under test."""

import queue
import threading
import time

import etcd3
import grpc
import pytest
from etcd3 import exceptions

from server import PATIENCE_S, Server, eventually


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture
def client(server):
    with etcd3.client(host="127.0.0.1", port=server.port, timeout=PATIENCE_S) as client:
        yield client
        for _, meta in list(client.get_all(keys_only=True)):
            client.delete(meta.key)


def words(pairs):
    return {meta.key.decode(): value.decode() for value, meta in pairs}


def test_put_get_delete(client):
    client.put("k", "old")
    previous = client.put("k", "new", prev_kv=True)
    assert previous.prev_kv.value == b"old"
    value, meta = client.get("k")
    assert (value, meta.version) == (b"new", 2)
    assert meta.mod_revision == meta.create_revision + 1
    assert client.delete("k")
    assert client.get("k") == (None, None)
    assert not client.delete("k")


def test_prefixes_and_ranges(client):
    for key in ("p/c", "p/a", "p/b", "q"):
        client.put(key, key.upper())
    assert words(client.get_prefix("p/")) == {"p/a": "P/A", "p/b": "P/B", "p/c": "P/C"}
    assert list(words(client.get_range("p/b", "q", sort_order="descend"))) == ["p/c", "p/b"]
    assert len(words(client.get_all())) == 4
    assert client.delete_prefix("p/").deleted == 3


def test_transactions(client):
    client.put("guard", "1")
    condition = [client.transactions.value("guard") == "1", client.transactions.version("guard") > 0]
    swap = [client.transactions.put("guard", "2"), client.transactions.get("guard")]
    done, answers = client.transaction(compare=condition, success=swap, failure=[])
    assert done
    assert answers[1][0][0] == b"2"
    done, _ = client.transaction(compare=condition, success=swap, failure=[client.transactions.delete("guard")])
    assert not done
    assert client.get("guard")[0] is None
    assert client.put_if_not_exists("guard", "x")
    assert not client.put_if_not_exists("guard", "y")
    assert client.replace("guard", "x", "z")
    assert not client.replace("guard", "x", "w")


def test_a_revision_is_compacted_once(client):
    client.put("k", "1")
    last = client.put("k", "2").header.revision
    client.compact(last, physical=True)
    with pytest.raises(grpc.RpcError, match="has been compacted"):
        client.compact(last)
    assert client.get("k")[0] == b"2"


def test_watch_of_a_prefix(client):
    events, cancel = client.watch_prefix("w/")
    client.put("w/1", "a")
    client.put("other", "b")
    client.delete("w/1")
    first, second = next(events), next(events)
    assert isinstance(first, etcd3.events.PutEvent) and (first.key, first.value) == (b"w/1", b"a")
    assert isinstance(second, etcd3.events.DeleteEvent) and second.key == b"w/1"
    cancel()
    assert list(events) == []


def test_watch_from_an_old_revision(client):
    start = client.put("h", "1").header.revision
    client.put("h", "2")
    events, cancel = client.watch("h", start_revision=start)
    assert [next(events).value, next(events).value] == [b"1", b"2"]
    cancel()


def test_watch_callback(client):
    seen = queue.Queue()
    watch_id = client.add_watch_callback("c", seen.put)
    client.put("c", "x")
    response = seen.get(timeout=PATIENCE_S)
    assert [event.value for event in response.events] == [b"x"]
    client.cancel_watch(watch_id)


def test_watch_below_a_compaction_is_refused(client):
    start = client.put("k", "1").header.revision
    last = client.put("k", "2").header.revision
    client.compact(last)
    events, _ = client.watch("k", start_revision=start)
    with pytest.raises(exceptions.RevisionCompactedError) as refused:
        next(events)
    assert refused.value.compacted_revision == last


def test_leases(client):
    lease = client.lease(60)
    client.put("leased", "v", lease=lease)
    assert 0 < lease.remaining_ttl <= 60 and lease.granted_ttl == 60
    assert list(lease.keys) == [b"leased"]
    assert lease.refresh()[0].TTL == 60
    lease.revoke()
    assert client.get("leased")[0] is None


def test_a_lease_that_is_not_refreshed_expires(client):
    client.put("short", "v", lease=client.lease(1))
    eventually(lambda: client.get("short")[0] is None)


def test_locks_exclude_each_other(client, server):
    inside, overlaps, turns = [], [], []

    def work():
        with etcd3.client(host="127.0.0.1", port=server.port, timeout=PATIENCE_S) as own:
            for _ in range(3):
                lock = own.lock("mutex", ttl=60)
                # The client's lock looks first and watches then: a release in between it sleeps through.
                eventually(lambda: lock.acquire(timeout=1))
                inside.append(1)
                overlaps.append(len(inside) > 1)
                time.sleep(0)
                inside.pop()
                turns.append(1)
                assert lock.release()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(turns) == 9 and not any(overlaps)


def test_members_status_and_alarms(client):
    (member,) = client.members
    assert member.name == "m"
    status = client.status()
    assert status.leader.id == member.id and status.db_size > 0 and status.version
    assert client.create_alarm(member.id)[0].member_id == member.id
    with pytest.raises(Exception, match="space exceeded"):
        client.put("k", "v")
    assert len(client.disarm_alarm(member.id)) == 1
    client.put("k", "v")


def test_data_survives_a_kill(server):
    with etcd3.client(host="127.0.0.1", port=server.port, timeout=PATIENCE_S) as before:
        before.put("kept", "v")
    server.restart()
    with etcd3.client(host="127.0.0.1", port=server.port, timeout=PATIENCE_S) as after:
        assert after.get("kept")[0] == b"v"

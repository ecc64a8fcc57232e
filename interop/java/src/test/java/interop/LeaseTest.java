package interop;

import static interop.Server.PATIENCE_S;
import static interop.Server.await;
import static interop.Server.bytes;
import static interop.Server.describe;
import static interop.Server.eventually;
import static interop.Server.refusal;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.etcd.jetcd.Client;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.lease.LeaseTimeToLiveResponse;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.support.Observers;
import io.grpc.stub.StreamObserver;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.Set;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;

/** Leases: what holds them, what ends them. Each test has keys of its own. */
class LeaseTest {
    private static final String NOT_FOUND = "NOT_FOUND etcdserver: requested lease not found";

    @AutoClose
    private static final Server server = new Server();
    private static final Client client = server.client();
    private static final KV kv = client.getKVClient();
    private static final Lease lease = client.getLeaseClient();

    /** What an observer of a lease was told. */
    private static final class Told {
        final List<Long> ttls = new CopyOnWriteArrayList<>();
        final List<Throwable> errors = new CopyOnWriteArrayList<>();

        StreamObserver<LeaseKeepAliveResponse> observer() {
            return Observers.<LeaseKeepAliveResponse>builder()
                .onNext(response -> ttls.add(response.getTTL())).onError(errors::add).build();
        }
    }

    @Test
    void keys_go_with_their_lease() {
        var granted = await(lease.grant(60));
        assertEquals(60, granted.getTTL());
        put("a/1", granted.getID());
        put("a/2", granted.getID());
        LeaseTimeToLiveResponse left = timeToLive(granted.getID());
        assertEquals(60, left.getGrantedTTL());
        assertTrue(left.getTTL() > 0 && left.getTTL() <= 60, "left: " + left.getTTL());
        // etcd tells them in no order.
        assertEquals(Set.of(bytes("a/1"), bytes("a/2")), Set.copyOf(left.getKeys()));
        assertEquals(granted.getID(), await(kv.get(bytes("a/1"))).getKvs().get(0).getLease());
        put("a/2", 0); // Takes the key from the lease.
        await(lease.revoke(granted.getID()));
        assertEquals(0, count("a/1"));
        assertEquals(1, count("a/2"));
        assertEquals(-1, timeToLive(granted.getID()).getTTL());
        assertEquals(NOT_FOUND, refusal(lease.revoke(granted.getID())));
        assertEquals(NOT_FOUND, refusal(kv.put(bytes("a/1"), bytes("v"), leased(granted.getID()))));
    }

    @Test
    void leases_have_ids_of_their_own() {
        long one = await(lease.grant(60)).getID();
        long two = await(lease.grant(60, PATIENCE_S, TimeUnit.SECONDS)).getID();
        assertNotEquals(one, two);
        await(lease.revoke(one));
        assertTrue(timeToLive(two).getTTL() > 0);
        assertEquals("OUT_OF_RANGE etcdserver: too large lease TTL", refusal(lease.grant(9_000_000_001L)));
    }

    @Test
    void a_lease_that_is_not_renewed_ends() {
        long id = await(lease.grant(1)).getID();
        put("b", id);
        eventually("the key is gone", () -> count("b") == 0);
        assertEquals(NOT_FOUND, refusal(kv.put(bytes("b"), bytes("v"), leased(id))));
    }

    @Test
    void a_lease_that_is_renewed_lives_longer_than_its_time() {
        long id = await(lease.grant(5)).getID();
        put("c", id);
        Told told = new Told();
        try (var renewal = lease.keepAlive(id, told.observer())) {
            // The first comes at once, each other after a third of the time at the earliest.
            eventually("renewals for longer than its time", () -> told.ttls.size() >= 5);
            assertEquals(1, count("c"));
        }
        assertEquals(List.of(5L), told.ttls.stream().distinct().toList());
        assertEquals(List.of(), told.errors);
    }

    @Test
    void several_leases_are_renewed_on_one_stream() {
        long first = await(lease.grant(60)).getID();
        long second = await(lease.grant(30)).getID();
        Told one = new Told();
        Told two = new Told();
        try (var renewals = lease.keepAlive(first, one.observer()); var more = lease.keepAlive(second, two.observer())) {
            eventually("both are renewed", () -> !one.ttls.isEmpty() && !two.ttls.isEmpty());
        }
        assertEquals(List.of(60L, 30L), List.of(one.ttls.get(0), two.ttls.get(0)));
    }

    @Test
    void renewed_once() {
        long id = await(lease.grant(60)).getID();
        var renewed = await(lease.keepAliveOnce(id));
        assertEquals(id, renewed.getID());
        assertEquals(60, renewed.getTTL());
    }

    @Test
    void a_lease_that_is_not_there_is_not_renewed() {
        assertEquals(NOT_FOUND, refusal(lease.keepAliveOnce(4711)));
        Told told = new Told();
        try (var renewal = lease.keepAlive(4711, told.observer())) {
            eventually("an error", () -> !told.errors.isEmpty());
        }
        assertEquals(NOT_FOUND, describe(told.errors.get(0)));
    }

    @Test
    void a_lease_is_renewed_after_a_kill() throws Exception {
        try (Server own = new Server()) {
            Client client = own.client();
            // The client gives a lease up that was not renewed for its whole time, and asks after a third of it.
            long id = await(client.getLeaseClient().grant(15)).getID();
            await(client.getKVClient().put(bytes("k"), bytes("v"), leased(id)));
            Told told = new Told();
            client.getLeaseClient().keepAlive(id, told.observer());
            eventually("a renewal", () -> !told.ttls.isEmpty());
            own.kill();
            eventually("the client sees that the server is gone", () -> !told.errors.isEmpty());
            int before = told.ttls.size();
            own.start();
            eventually("a renewal after the kill", () -> told.ttls.size() > before);
            assertEquals(15, told.ttls.get(before));
            assertEquals(id, await(client.getKVClient().get(bytes("k"))).getKvs().get(0).getLease());
        }
    }

    private static void put(String key, long leaseId) {
        await(kv.put(bytes(key), bytes("v"), leased(leaseId)));
    }

    private static PutOption leased(long leaseId) {
        return PutOption.builder().withLeaseId(leaseId).build();
    }

    private static LeaseTimeToLiveResponse timeToLive(long leaseId) {
        return await(lease.timeToLive(leaseId, LeaseOption.builder().withAttachedKeys().build()));
    }

    private static long count(String key) {
        return await(kv.get(bytes(key))).getCount();
    }
}

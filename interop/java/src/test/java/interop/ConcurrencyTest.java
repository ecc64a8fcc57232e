package interop;

import static interop.Server.await;
import static interop.Server.bytes;
import static interop.Server.eventually;
import static interop.Server.failure;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.Lock;
import io.etcd.jetcd.election.CampaignResponse;
import io.etcd.jetcd.election.LeaderKey;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.election.NoLeaderException;
import io.etcd.jetcd.election.NotLeaderException;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.lock.LockResponse;
import io.etcd.jetcd.options.GetOption;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;

/** The lock and the election service. Each test has names of its own. */
class ConcurrencyTest {
    @AutoClose
    private static final Server server = new Server();
    private static final Client client = server.client();
    private static final Client other = server.client();
    private static final KV kv = client.getKVClient();
    private static final Lock lock = client.getLockClient();
    private static final Election election = client.getElectionClient();

    /** What an observer of an election was told. */
    private static final class Told implements Election.Listener {
        final List<String> leaders = new CopyOnWriteArrayList<>();
        final List<Throwable> errors = new CopyOnWriteArrayList<>();

        @Override
        public void onNext(LeaderResponse response) {
            leaders.add(response.getKv().getValue().toString());
        }

        @Override
        public void onError(Throwable error) {
            errors.add(error);
        }

        @Override
        public void onCompleted() {
            errors.add(new AssertionError("an observation does not end"));
        }

        void await(String leader) {
            eventually("the leader " + leader + ", told " + leaders + errors,
                () -> !leaders.isEmpty() && leaders.get(leaders.size() - 1).equals(leader));
        }
    }

    @Test
    void a_lock_has_one_holder() {
        ByteSequence held = await(lock.lock(bytes("a"), lease(client))).getKey();
        assertTrue(held.startsWith(bytes("a/")), held.toString());
        assertEquals(1, await(kv.get(held)).getCount());
        CompletableFuture<LockResponse> second = other.getLockClient().lock(bytes("a"), lease(other));
        waits("a", 2);
        assertFalse(second.isDone());
        await(lock.unlock(held));
        ByteSequence next = await(second).getKey();
        assertEquals(0, await(kv.get(held)).getCount());
        await(other.getLockClient().unlock(next));
        assertEquals(0, line("a").getCount());
    }

    @Test
    void a_lock_is_asked_for_again_by_its_holder() {
        long lease = lease(client);
        ByteSequence held = await(lock.lock(bytes("b"), lease)).getKey();
        assertEquals(held, await(lock.lock(bytes("b"), lease)).getKey());
        await(lock.unlock(held));
    }

    @Test
    void a_lock_goes_with_the_lease_of_its_holder() {
        long lease = lease(client);
        await(lock.lock(bytes("c"), lease));
        CompletableFuture<LockResponse> second = other.getLockClient().lock(bytes("c"), lease(other));
        waits("c", 2);
        assertFalse(second.isDone());
        await(client.getLeaseClient().revoke(lease));
        await(other.getLockClient().unlock(await(second).getKey()));
    }

    @Test
    void locks_are_given_in_the_order_of_asking() {
        ByteSequence held = await(lock.lock(bytes("d"), lease(client))).getKey();
        List<CompletableFuture<LockResponse>> line = new ArrayList<>();
        for (int i = 0; i < 5; i++) {
            line.add(lock.lock(bytes("d"), lease(client)));
            waits("d", i + 2);
        }
        for (CompletableFuture<LockResponse> next : line) {
            assertFalse(next.isDone());
            await(lock.unlock(held));
            held = await(next).getKey();
        }
        await(lock.unlock(held));
    }

    @Test
    void a_lock_keeps_a_read_and_a_write_together() {
        await(kv.put(bytes("sum"), bytes("0")));
        List<CompletableFuture<Void>> adders = new ArrayList<>();
        for (Client adder : List.of(client, other, client, other)) {
            adders.add(CompletableFuture.runAsync(() -> add(adder)));
        }
        adders.forEach(Server::await);
        assertEquals(bytes("20"), await(kv.get(bytes("sum"))).getKvs().get(0).getValue());
    }

    @Test
    void an_election_has_one_leader_after_the_other() {
        ByteSequence name = bytes("e");
        assertInstanceOf(NoLeaderException.class, failure(election.leader(name)));
        Told told = new Told();
        other.getElectionClient().observe(name, told);

        long lease = lease(client);
        LeaderKey first = await(election.campaign(name, lease, bytes("one"))).getLeader();
        assertEquals(name, first.getName());
        assertEquals(lease, first.getLease());
        var leader = await(election.leader(name)).getKv();
        assertEquals(first.getKey(), leader.getKey());
        assertEquals(first.getRevision(), leader.getCreateRevision());
        assertEquals(bytes("one"), leader.getValue());
        told.await("one");

        await(election.proclaim(first, bytes("one again")));
        told.await("one again");
        CompletableFuture<CampaignResponse> waiting = other.getElectionClient().campaign(name, lease(other), bytes("two"));
        waits("e", 2);
        assertFalse(waiting.isDone());
        assertEquals(bytes("one again"), await(election.leader(name)).getKv().getValue());

        await(election.resign(first));
        LeaderKey second = await(waiting).getLeader();
        told.await("two");
        assertEquals(second.getKey(), await(election.leader(name)).getKv().getKey());
        assertInstanceOf(NotLeaderException.class, failure(election.proclaim(first, bytes("late"))));
        await(other.getElectionClient().resign(second));
        assertInstanceOf(NoLeaderException.class, failure(election.leader(name)));
        assertEquals(List.of("one", "one again", "two"), told.leaders);
        assertEquals(List.of(), told.errors);
    }

    @Test
    void a_leader_goes_with_its_lease() {
        long lease = lease(client);
        await(election.campaign(bytes("f"), lease, bytes("one")));
        CompletableFuture<CampaignResponse> waiting = other.getElectionClient().campaign(bytes("f"), lease(other), bytes("two"));
        waits("f", 2);
        assertFalse(waiting.isDone());
        await(client.getLeaseClient().revoke(lease));
        await(waiting);
        assertEquals(bytes("two"), await(election.leader(bytes("f"))).getKv().getValue());
    }

    private static long lease(Client client) {
        Lease leases = client.getLeaseClient();
        return await(leases.grant(60)).getID();
    }

    /** Those who hold and wait for a name have a key each. */
    private static GetResponse line(String name) {
        return await(kv.get(bytes(name + "/"), GetOption.builder().isPrefix(true).build()));
    }

    private static void waits(String name, int length) {
        eventually(length + " in the line for " + name, () -> line(name).getCount() == length);
    }

    private static void add(Client client) {
        long lease = lease(client);
        for (int i = 0; i < 5; i++) {
            ByteSequence held = await(client.getLockClient().lock(bytes("g"), lease)).getKey();
            String sum = await(client.getKVClient().get(bytes("sum"))).getKvs().get(0).getValue().toString();
            await(client.getKVClient().put(bytes("sum"), bytes(String.valueOf(Integer.parseInt(sum) + 1))));
            await(client.getLockClient().unlock(held));
        }
    }
}

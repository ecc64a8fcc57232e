package interop;

import static interop.Server.await;
import static interop.Server.bytes;
import static interop.Server.eventually;
import static interop.Server.failure;
import static interop.Server.fails;
import static interop.Server.refusal;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.etcd.jetcd.Auth;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.Cluster;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.Maintenance;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.cluster.Member;
import io.etcd.jetcd.kv.PutResponse;
import io.etcd.jetcd.maintenance.AlarmMember;
import io.etcd.jetcd.maintenance.AlarmType;
import io.etcd.jetcd.maintenance.SnapshotResponse;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.OptionsUtil;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.support.Observers;
import io.grpc.Status;
import java.io.ByteArrayOutputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What operators do, users and roles, and servers that go away. Each test has a server of its own. */
class OperationsTest {
    @Test
    void members_and_status() throws Exception {
        try (Server own = new Server()) {
            Client client = own.client();
            long revision = await(client.getKVClient().put(bytes("k"), bytes("v"))).getHeader().getRevision();
            var list = await(client.getClusterClient().listMember());
            assertEquals(1, list.getMembers().size());
            Member member = list.getMembers().get(0);
            assertEquals("m", member.getName());
            assertEquals(List.of(URI.create(own.url)), member.getClientURIs());
            assertFalse(member.isLearner());
            var status = await(client.getMaintenanceClient().statusMember(own.url));
            assertEquals(member.getId(), status.getLeader());
            assertEquals(member.getId(), status.getHeader().getMemberId());
            assertEquals(list.getHeader().getClusterId(), status.getHeader().getClusterId());
            assertEquals(revision, status.getHeader().getRevision());
            assertTrue(status.getVersion().matches("3\\.\\d+\\.\\d+.*"), status.getVersion());
            assertTrue(status.getDbSizeInUse() > 0 && status.getDbSizeInUse() <= status.getDbSize());
            assertTrue(status.getRaftTerm() > 0 && status.getRaftIndex() >= status.getRaftAppliedIndex());
            assertFalse(status.isLearner());
            assertEquals(List.of(), status.getErrorList());
            assertEquals(List.of(), await(client.getMaintenanceClient().listAlarms()).getAlarms());
        }
    }

    @Test
    void a_learner_comes_and_goes() throws Exception {
        try (Server own = new Server()) {
            Cluster cluster = own.client().getClusterClient();
            var added = await(cluster.addMember(List.of(URI.create("http://127.0.0.1:1")), true));
            long id = added.getMember().getId();
            assertTrue(added.getMember().isLearner());
            assertEquals(2, added.getMembers().size());
            assertEquals("FAILED_PRECONDITION etcdserver: can only promote a learner member which is in sync with leader",
                refusal(cluster.promoteMember(id)));
            List<URI> moved = List.of(URI.create("http://127.0.0.1:2"));
            var updated = await(cluster.updateMember(id, moved)).getMembers().stream().filter(m -> m.getId() == id).toList();
            assertEquals(moved, updated.get(0).getPeerURIs());
            assertEquals(1, await(cluster.removeMember(id)).getMembers().size());
            assertEquals("NOT_FOUND etcdserver: member not found", refusal(cluster.removeMember(id)));
        }
    }

    @Test
    void the_leadership_does_not_move_to_nobody() throws Exception {
        try (Server own = new Server()) {
            assertEquals("FAILED_PRECONDITION etcdserver: bad leader transferee",
                refusal(own.client().getMaintenanceClient().moveLeader(4711)));
        }
    }

    @Test
    void hashes_and_defragmentation() throws Exception {
        try (Server own = new Server()) {
            Client client = own.client();
            Maintenance maintenance = client.getMaintenanceClient();
            long revision = await(client.getKVClient().put(bytes("k"), bytes("v"))).getHeader().getRevision();
            int before = await(maintenance.hashKV(own.url, revision)).getHash();
            await(client.getKVClient().put(bytes("k"), bytes("w")));
            await(maintenance.defragmentMember(own.url));
            assertEquals(before, await(maintenance.hashKV(own.url, revision)).getHash());
            assertNotEquals(before, await(maintenance.hashKV(own.url, 0)).getHash());
            assertEquals("OUT_OF_RANGE etcdserver: mvcc: required revision is a future revision",
                refusal(maintenance.hashKV(own.url, revision + 100)));
        }
    }

    /** The last 32 bytes of a snapshot are the SHA-256 of all before. */
    @Test
    void snapshots() throws Exception {
        try (Server own = new Server()) {
            Client client = own.client();
            await(client.getKVClient().put(bytes("k"), bytes("a value to be found")));
            ByteArrayOutputStream output = new ByteArrayOutputStream();
            long size = await(client.getMaintenanceClient().snapshot(output));
            byte[] all = output.toByteArray();
            assertEquals(size, all.length);
            byte[] data = Arrays.copyOf(all, all.length - 32);
            assertEquals(0, data.length % 512);
            byte[] sum = Arrays.copyOfRange(all, data.length, all.length);
            assertArrayEquals(MessageDigest.getInstance("SHA-256").digest(data), sum);
            assertTrue(new String(data, StandardCharsets.ISO_8859_1).contains("a value to be found"));

            ByteArrayOutputStream parts = new ByteArrayOutputStream();
            CompletableFuture<Long> remaining = new CompletableFuture<>();
            long[] last = {-1};
            client.getMaintenanceClient().snapshot(Observers.<SnapshotResponse>builder().onNext(part -> {
                parts.writeBytes(part.getBlob().toByteArray());
                last[0] = part.getRemainingBytes();
            }).onError(remaining::completeExceptionally).onCompleted(() -> remaining.complete(last[0])).build());
            assertEquals(0, await(remaining));
            assertEquals(32, parts.size() % 512);
        }
    }

    @Test
    void a_full_database_raises_an_alarm() throws Exception {
        try (Server own = new Server(Map.of("ETCD_QUOTA_BACKEND_BYTES", String.valueOf(8 << 20)))) {
            Client client = own.client();
            KV kv = client.getKVClient();
            Maintenance maintenance = client.getMaintenanceClient();
            ByteSequence large = ByteSequence.from(new byte[1 << 20]);
            String full = "RESOURCE_EXHAUSTED etcdserver: mvcc: database space exceeded";
            List<CompletableFuture<PutResponse>> puts = new ArrayList<>();
            eventually("the database is full", () -> {
                puts.add(0, kv.put(bytes("k"), large));
                return fails(puts.get(0));
            });
            assertEquals(full, refusal(puts.get(0)));
            eventually("an alarm", () -> !await(maintenance.listAlarms()).getAlarms().isEmpty());
            AlarmMember alarm = await(maintenance.listAlarms()).getAlarms().get(0);
            assertEquals(AlarmType.NOSPACE, alarm.getAlarmType());
            assertEquals(full, refusal(kv.put(bytes("small"), bytes("v"))));
            long revision = await(kv.delete(bytes("k"), DeleteOption.DEFAULT)).getHeader().getRevision();
            await(kv.compact(revision));
            eventually("there is space", () -> {
                await(maintenance.defragmentMember(own.url));
                return await(maintenance.statusMember(own.url)).getDbSize() < 4 << 20;
            });
            await(maintenance.alarmDisarm(alarm));
            assertEquals(List.of(), await(maintenance.listAlarms()).getAlarms());
            await(kv.put(bytes("small"), bytes("v")));
        }
    }

    @ParameterizedTest(name = "a client goes on after a restart, in good order: {0}")
    @ValueSource(booleans = {false, true})
    void a_client_goes_on_after_a_restart(boolean inGoodOrder) throws Exception {
        try (Server own = new Server()) {
            Client client = own.client();
            KV kv = client.getKVClient();
            await(kv.put(bytes("kept"), bytes("v")));
            CompletableFuture<Void> connected = new CompletableFuture<>();
            CompletableFuture<Throwable> gone = new CompletableFuture<>();
            client.getWatchClient().watch(bytes("k"), WatchOption.builder().withCreateNotify(true).build(),
                created -> connected.complete(null), gone::complete);
            await(connected);
            if (inGoodOrder) {
                own.stop();
            } else {
                own.kill();
            }
            // A call on a connection whose end the client has not seen yet may fail as UNKNOWN, which it does not repeat.
            await(gone);
            // Both wait for a server. What may have been done is repeated only when the caller says that it may be.
            var read = kv.get(bytes("kept"));
            var write = kv.put(bytes("new"), bytes("w"), PutOption.builder().withAutoRetry().build());
            own.start();
            assertEquals(bytes("v"), await(read).getKvs().get(0).getValue());
            await(write);
            assertEquals(bytes("w"), await(kv.get(bytes("new"))).getKvs().get(0).getValue());
        }
    }

    @Test
    void users_have_the_rights_of_their_roles() throws Exception {
        try (Server own = new Server()) {
            Client admin = own.client();
            Auth auth = admin.getAuthClient();
            await(auth.roleAdd(bytes("reader")));
            await(auth.roleGrantPermission(bytes("reader"), bytes("public/"), OptionsUtil.prefixEndOf(bytes("public/")),
                Permission.Type.READ));
            assertEquals(bytes("public/"), await(auth.roleGet(bytes("reader"))).getPermissions().get(0).getKey());
            await(auth.roleAdd(bytes("root")));
            for (var user : Map.of("root", "root", "ann", "reader").entrySet()) {
                await(auth.userAdd(bytes(user.getKey()), bytes(user.getKey() + "-secret")));
                await(auth.userGrantRole(bytes(user.getKey()), bytes(user.getValue())));
            }
            assertEquals(List.of("ann", "root"), await(auth.userList()).getUsers().stream().sorted().toList());
            assertEquals(List.of("reader"), await(auth.userGet(bytes("ann"))).getRoles());
            await(auth.authEnable());

            KV root = as(own, "root", "root-secret").getKVClient();
            KV ann = as(own, "ann", "ann-secret").getKVClient();
            await(root.put(bytes("public/k"), bytes("v")));
            assertEquals(bytes("v"), await(ann.get(bytes("public/k"))).getKvs().get(0).getValue());
            String denied = "PERMISSION_DENIED etcdserver: permission denied";
            assertEquals(denied, refusal(ann.put(bytes("public/k"), bytes("w"))));
            assertEquals(denied, refusal(ann.get(bytes("private/k"))));
            assertEquals("INVALID_ARGUMENT etcdserver: user name is empty", refusal(admin.getKVClient().get(bytes("public/k"))));
            Throwable wrong = failure(as(own, "ann", "wrong").getKVClient().get(bytes("public/k")));
            assertEquals(Status.Code.UNAUTHENTICATED, Status.fromThrowable(wrong).getCode());

            Auth rootAuth = as(own, "root", "root-secret").getAuthClient();
            await(rootAuth.userChangePassword(bytes("ann"), bytes("changed")));
            assertEquals(1, await(as(own, "ann", "changed").getKVClient().get(bytes("public/k"))).getCount());
            await(rootAuth.userRevokeRole(bytes("ann"), bytes("reader")));
            assertEquals(denied, refusal(as(own, "ann", "changed").getKVClient().get(bytes("public/k"))));
            await(rootAuth.authDisable());
            assertEquals(1, await(admin.getKVClient().get(bytes("public/k"))).getCount());
        }
    }

    private static Client as(Server own, String user, String password) {
        return own.client(Client.builder().user(bytes(user)).password(bytes(password)));
    }
}

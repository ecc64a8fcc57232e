package interop;

import static interop.Server.await;
import static interop.Server.bytes;
import static interop.Server.refusal;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.CompactOption;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.GetOption.SortOrder;
import io.etcd.jetcd.options.GetOption.SortTarget;
import io.etcd.jetcd.options.PutOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Keys, ranges, transactions and compaction. */
class KvTest {
    @AutoClose
    private static final Server server = new Server();
    private static final KV kv = server.client().getKVClient();

    @BeforeEach
    void empty() {
        await(kv.delete(bytes("\0"), DeleteOption.builder().withRange(bytes("\0")).build()));
    }

    @Test
    void put_get_and_delete() {
        assertFalse(await(kv.put(bytes("k"), bytes("old"), PutOption.builder().withPrevKV().build())).hasPrevKv());
        var put = await(kv.put(bytes("k"), bytes("new"), PutOption.builder().withPrevKV().build()));
        assertEquals(bytes("old"), put.getPrevKv().getValue());
        KeyValue got = await(kv.get(bytes("k"))).getKvs().get(0);
        assertEquals(bytes("new"), got.getValue());
        assertEquals(2, got.getVersion());
        assertEquals(put.getHeader().getRevision(), got.getModRevision());
        assertEquals(put.getPrevKv().getModRevision(), got.getCreateRevision());
        assertEquals(0, got.getLease());
        var deleted = await(kv.delete(bytes("k"), DeleteOption.builder().withPrevKV(true).build()));
        assertEquals(1, deleted.getDeleted());
        assertEquals(bytes("new"), deleted.getPrevKvs().get(0).getValue());
        assertEquals(List.of(), await(kv.get(bytes("k"))).getKvs());
        assertEquals(0, await(kv.delete(bytes("k"))).getDeleted());
    }

    @Test
    void values_of_all_bytes_and_of_a_megabyte() {
        byte[] large = new byte[1 << 20];
        for (int i = 0; i < large.length; i++) {
            large[i] = (byte) i;
        }
        await(kv.put(ByteSequence.from(new byte[] {0, -1, 127}), ByteSequence.from(large)));
        GetResponse all = range(GetOption.builder());
        assertEquals(ByteSequence.from(new byte[] {0, -1, 127}), all.getKvs().get(0).getKey());
        assertEquals(ByteSequence.from(large), all.getKvs().get(0).getValue());
        await(kv.put(bytes("empty"), ByteSequence.EMPTY));
        assertEquals(ByteSequence.EMPTY, await(kv.get(bytes("empty"))).getKvs().get(0).getValue());
    }

    @Test
    void ranges() {
        put("p/b=1", "p/a=3", "p/c=2", "q=0");
        assertEquals("[p/a=3, p/b=1, p/c=2]", texts(prefix("p/", GetOption.builder())));
        assertEquals("[p/b=1, p/c=2]", texts(await(kv.get(bytes("p/b"), GetOption.builder().withRange(bytes("q")).build()))));
        assertEquals("[p/c=2, q=0]", texts(await(kv.get(bytes("p/c"), GetOption.builder().withRange(bytes("\0")).build()))));
        assertEquals("[p/a=3, p/b=1, p/c=2, q=0]", texts(range(GetOption.builder().withSerializable(true))));

        GetResponse limited = range(GetOption.builder().withLimit(3));
        assertEquals("[p/a=3, p/b=1, p/c=2]", texts(limited));
        assertTrue(limited.isMore());
        assertEquals(4, limited.getCount());
        GetResponse counted = prefix("p/", GetOption.builder().withCountOnly(true));
        assertEquals(3, counted.getCount());
        assertEquals(List.of(), counted.getKvs());
        assertEquals("[p/a=, p/b=, p/c=, q=]", texts(range(GetOption.builder().withKeysOnly(true))));
    }

    @Test
    void sorted_ranges() {
        put("b=1", "a=3", "c=2", "a=2", "a=4");
        assertEquals("[c=2, b=1, a=4]", texts(sorted(SortTarget.KEY, SortOrder.DESCEND)));
        assertEquals("[b=1, c=2, a=4]", texts(sorted(SortTarget.VALUE, SortOrder.ASCEND)));
        assertEquals("[b=1, a=4, c=2]", texts(sorted(SortTarget.CREATE, SortOrder.ASCEND)));
        assertEquals("[a=4, c=2, b=1]", texts(sorted(SortTarget.MOD, SortOrder.DESCEND)));
        assertEquals("[a=4]", texts(range(
            GetOption.builder().withSortField(SortTarget.VERSION).withSortOrder(SortOrder.DESCEND).withLimit(1))));
    }

    @Test
    void reads_of_the_past() {
        long first = put("k=1");
        long second = put("k=2", "n=3");
        await(kv.delete(bytes("k")));
        assertEquals("[k=1]", texts(range(GetOption.builder().withRevision(first))));
        assertEquals("[k=2, n=3]", texts(range(GetOption.builder().withRevision(second))));
        assertEquals("[n=3]", texts(range(GetOption.builder().withMinModRevision(first))));
        assertEquals("[k=1]", texts(range(GetOption.builder().withRevision(first).withMaxModRevision(first))));
        assertEquals("[n=3]", texts(range(GetOption.builder().withRevision(second).withMinCreateRevision(first + 1))));
        assertEquals("[k=2]", texts(range(GetOption.builder().withRevision(second).withMaxCreateRevision(first))));
    }

    @Test
    void deletes_of_ranges() {
        put("p/a=1", "p/b=2", "p/c=3", "q=4");
        assertEquals(1, await(kv.delete(bytes("p/a"), DeleteOption.builder().withRange(bytes("p/b")).build())).getDeleted());
        var deleted = await(kv.delete(bytes("p/"), DeleteOption.builder().isPrefix(true).withPrevKV(true).build()));
        assertEquals(2, deleted.getDeleted());
        assertEquals("[p/b=2, p/c=3]", texts(deleted.getPrevKvs()));
        assertEquals("[q=4]", texts(range(GetOption.builder())));
    }

    @Test
    void transactions_compare_every_target() {
        long created = put("k=b");
        long modified = put("k=m");
        List<CmpTarget<?>> less = List.of(CmpTarget.version(1), CmpTarget.createRevision(created - 1),
            CmpTarget.modRevision(modified - 1), CmpTarget.value(bytes("a")));
        List<CmpTarget<?>> same = List.of(CmpTarget.version(2), CmpTarget.createRevision(created),
            CmpTarget.modRevision(modified), CmpTarget.value(bytes("m")));
        for (int target = 0; target < same.size(); target++) {
            for (Cmp.Op op : Cmp.Op.values()) {
                assertEquals(op == Cmp.Op.EQUAL, holds("k", op, same.get(target)), op + " " + target);
                boolean greater = op == Cmp.Op.GREATER || op == Cmp.Op.NOT_EQUAL;
                assertEquals(greater, holds("k", op, less.get(target)), op + " " + target);
            }
        }
        assertTrue(holds("absent", Cmp.Op.EQUAL, CmpTarget.version(0)));
        assertFalse(holds("absent", Cmp.Op.EQUAL, CmpTarget.value(ByteSequence.EMPTY)));
    }

    @Test
    void transactions_do_one_thing_or_the_other() {
        put("gone=g");
        TxnResponse done = createOrRead();
        assertTrue(done.isSucceeded());
        assertEquals(1, done.getPutResponses().size());
        assertEquals(1, done.getDeleteResponses().get(0).getDeleted());
        assertEquals("[k=v]", texts(done.getGetResponses().get(0)));
        TxnResponse refused = createOrRead();
        assertFalse(refused.isSucceeded());
        assertEquals("[k=v]", texts(refused.getGetResponses().get(0)));
        assertEquals(List.of(), refused.getPutResponses());
        assertEquals(done.getHeader().getRevision(), refused.getHeader().getRevision());
        assertEquals(done.getHeader().getRevision(), refused.getGetResponses().get(0).getKvs().get(0).getModRevision());
    }

    @Test
    void transactions_in_transactions() {
        put("k=v");
        Op inner = Op.txn(
            new Cmp[] {new Cmp(bytes("k"), Cmp.Op.EQUAL, CmpTarget.value(bytes("other")))},
            new Op[] {set("k", "wrong")},
            new Op[] {set("k", "right"), Op.get(bytes("k"), GetOption.DEFAULT)});
        TxnResponse outer = await(kv.txn().If(new Cmp(bytes("k"), Cmp.Op.GREATER, CmpTarget.version(0)))
            .Then(set("n", "w"), inner).commit());
        assertTrue(outer.isSucceeded());
        TxnResponse nested = outer.getTxnResponses().get(0);
        assertFalse(nested.isSucceeded());
        assertEquals("[k=right]", texts(nested.getGetResponses().get(0)));
        List<KeyValue> all = range(GetOption.builder()).getKvs();
        assertEquals("[k=right, n=w]", texts(all));
        assertEquals(all.get(0).getModRevision(), all.get(1).getModRevision());
    }

    @Test
    void compare_and_swap_loses_no_update() {
        put("sum=0");
        List<CompletableFuture<Void>> adders = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            adders.add(CompletableFuture.runAsync(KvTest::add));
        }
        adders.forEach(Server::await);
        assertEquals("[sum=8]", texts(range(GetOption.builder())));
    }

    @Test
    void compaction_takes_the_past() throws Exception {
        try (Server own = new Server()) {
            KV kv = own.client().getKVClient();
            long first = await(kv.put(bytes("k"), bytes("1"))).getHeader().getRevision();
            long second = await(kv.put(bytes("k"), bytes("2"))).getHeader().getRevision();
            await(kv.put(bytes("k"), bytes("3")));
            await(kv.compact(second, CompactOption.builder().withCompactPhysical(true).build()));
            String compacted = "OUT_OF_RANGE etcdserver: mvcc: required revision has been compacted";
            String future = "OUT_OF_RANGE etcdserver: mvcc: required revision is a future revision";
            assertEquals(compacted, refusal(kv.get(bytes("k"), GetOption.builder().withRevision(first).build())));
            assertEquals("[k=2]", texts(await(kv.get(bytes("k"), GetOption.builder().withRevision(second).build()))));
            assertEquals(compacted, refusal(kv.compact(second)));
            assertEquals(future, refusal(kv.compact(second + 100)));
            assertEquals(future, refusal(kv.get(bytes("k"), GetOption.builder().withRevision(second + 100).build())));
        }
    }

    @Test
    void errors_have_their_codes_and_texts() {
        assertEquals("INVALID_ARGUMENT etcdserver: key is not provided", refusal(kv.put(ByteSequence.EMPTY, bytes("v"))));
        assertEquals("INVALID_ARGUMENT etcdserver: request is too large",
            refusal(kv.put(bytes("k"), ByteSequence.from(new byte[1_600 << 10]))));
        assertEquals("INVALID_ARGUMENT etcdserver: duplicate key given in txn request",
            refusal(kv.txn().Then(set("k", "v"), set("k", "w")).commit()));
        Op[] many = new Op[129];
        Arrays.setAll(many, i -> set("k" + i, "v"));
        assertEquals("INVALID_ARGUMENT etcdserver: too many operations in txn request", refusal(kv.txn().Then(many).commit()));
        assertEquals("NOT_FOUND etcdserver: requested lease not found",
            refusal(kv.put(bytes("k"), bytes("v"), PutOption.builder().withLeaseId(4711).build())));
    }

    @Test
    void a_namespace_puts_its_prefix_before_keys() {
        KV inner = server.client(Client.builder().namespace(bytes("app/"))).getKVClient();
        await(inner.put(bytes("k"), bytes("v")));
        put("other=w");
        assertEquals("[app/k=v, other=w]", texts(range(GetOption.builder())));
        assertEquals("[k=v]", texts(await(inner.get(bytes("\0"), GetOption.builder().withRange(bytes("\0")).build()))));
        assertTrue(await(inner.txn().If(new Cmp(bytes("k"), Cmp.Op.EQUAL, CmpTarget.version(1)))
            .Then(Op.delete(bytes("k"), DeleteOption.DEFAULT)).commit()).isSucceeded());
        assertEquals("[other=w]", texts(range(GetOption.builder())));
    }

    /** Puts each "key=value" and returns the last revision. */
    private static long put(String... pairs) {
        long revision = 0;
        for (String pair : pairs) {
            String[] parts = pair.split("=");
            revision = await(kv.put(bytes(parts[0]), bytes(parts[1]))).getHeader().getRevision();
        }
        return revision;
    }

    private static GetResponse range(GetOption.Builder option) {
        return await(kv.get(bytes("\0"), option.withRange(bytes("\0")).build()));
    }

    private static GetResponse prefix(String prefix, GetOption.Builder option) {
        return await(kv.get(bytes(prefix), option.isPrefix(true).build()));
    }

    private static GetResponse sorted(SortTarget target, SortOrder order) {
        return range(GetOption.builder().withSortField(target).withSortOrder(order));
    }

    private static String texts(GetResponse got) {
        return texts(got.getKvs());
    }

    private static String texts(List<KeyValue> kvs) {
        return kvs.stream().map(kv -> kv.getKey() + "=" + kv.getValue()).toList().toString();
    }

    private static Op set(String key, String value) {
        return Op.put(bytes(key), bytes(value), PutOption.DEFAULT);
    }

    private static boolean holds(String key, Cmp.Op op, CmpTarget<?> target) {
        return await(kv.txn().If(new Cmp(bytes(key), op, target)).commit()).isSucceeded();
    }

    private static TxnResponse createOrRead() {
        return await(kv.txn().If(new Cmp(bytes("k"), Cmp.Op.EQUAL, CmpTarget.createRevision(0)))
            .Then(set("k", "v"), Op.get(bytes("k"), GetOption.DEFAULT), Op.delete(bytes("gone"), DeleteOption.DEFAULT))
            .Else(Op.get(bytes("k"), GetOption.DEFAULT)).commit());
    }

    private static void add() {
        boolean swapped = false;
        while (!swapped) {
            KeyValue sum = await(kv.get(bytes("sum"))).getKvs().get(0);
            int next = Integer.parseInt(sum.getValue().toString()) + 1;
            swapped = await(kv.txn()
                .If(new Cmp(bytes("sum"), Cmp.Op.EQUAL, CmpTarget.modRevision(sum.getModRevision())))
                .Then(set("sum", String.valueOf(next))).commit()).isSucceeded();
        }
    }
}

package interop;

import static interop.Server.await;
import static interop.Server.bytes;
import static interop.Server.describe;
import static interop.Server.eventually;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.etcd.jetcd.Client;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.common.exception.CompactedException;
import io.etcd.jetcd.kv.PutResponse;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import io.etcd.jetcd.watch.WatchResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.AutoClose;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Watches, also of history, and their resumption. Each test has keys of its own. */
class WatchTest {
    @AutoClose
    private static final Server server = new Server();
    private static final Client client = server.client();
    private static final KV kv = client.getKVClient();

    /** What a listener was told. */
    private static final class Seen implements Watch.Listener {
        final List<String> events = new CopyOnWriteArrayList<>();
        final List<Throwable> errors = new CopyOnWriteArrayList<>();
        final AtomicInteger created = new AtomicInteger();
        final AtomicInteger completed = new AtomicInteger();
        final AtomicLong progress = new AtomicLong();

        @Override
        public void onNext(WatchResponse response) {
            if (response.isCreatedNotify()) {
                created.incrementAndGet();
            }
            if (response.isProgressNotify()) {
                progress.set(response.getHeader().getRevision());
            }
            response.getEvents().forEach(event -> events.add(text(event)));
        }

        @Override
        public void onError(Throwable error) {
            errors.add(error);
        }

        @Override
        public void onCompleted() {
            completed.incrementAndGet();
        }

        void await(String... expected) {
            eventually("events " + List.of(expected) + ", seen " + events, () -> events.size() >= expected.length);
            assertEquals(List.of(expected), events);
        }

        private static String text(WatchEvent event) {
            String text = event.getEventType() + " " + event.getKeyValue().getKey() + "=" + event.getKeyValue().getValue();
            return event.getPrevKV().getVersion() == 0 ? text : text + " was " + event.getPrevKV().getValue();
        }
    }

    @Test
    void puts_and_deletes_under_a_prefix_in_order() {
        Seen seen = new Seen();
        try (var watcher = watch(client, "a/", WatchOption.builder().isPrefix(true).withPrevKV(true), seen)) {
            put("a/1=x");
            put("other=y");
            put("a/1=z");
            await(kv.delete(bytes("a/1")));
            put("a/2=end");
            seen.await("PUT a/1=x", "PUT a/1=z was x", "DELETE a/1= was z", "PUT a/2=end");
            assertEquals(List.of(), seen.errors);
        }
    }

    @Test
    void one_key_and_a_range() {
        Seen one = new Seen();
        Seen range = new Seen();
        try (var first = watch(client, "b/2", WatchOption.builder(), one);
            var second = watch(client, "b/2", WatchOption.builder().withRange(bytes("b/4")), range)) {
            List.of("b/1=v", "b/2=v", "b/3=v", "b/4=v", "b/2=end", "b/3=end").forEach(WatchTest::put);
            one.await("PUT b/2=v", "PUT b/2=end");
            range.await("PUT b/2=v", "PUT b/3=v", "PUT b/2=end", "PUT b/3=end");
        }
    }

    @Test
    void history_then_the_present() {
        long first = put("c=1").getHeader().getRevision();
        put("c=2");
        await(kv.delete(bytes("c")));
        Seen seen = new Seen();
        try (var watcher = watch(client, "c", WatchOption.builder().withRevision(first).withPrevKV(true), seen)) {
            seen.await("PUT c=1", "PUT c=2 was 1", "DELETE c= was 2");
            put("c=3");
            seen.await("PUT c=1", "PUT c=2 was 1", "DELETE c= was 2", "PUT c=3");
        }
    }

    @Test
    void a_start_in_the_future_leaves_out_what_is_before() {
        long now = put("d=0").getHeader().getRevision();
        Seen seen = new Seen();
        try (var watcher = watch(client, "d", WatchOption.builder().withRevision(now + 2), seen)) {
            put("d=1");
            put("d=2");
            seen.await("PUT d=2");
        }
    }

    @Test
    void filters_leave_out_puts_or_deletes() {
        Seen deletes = new Seen();
        Seen puts = new Seen();
        try (var first = watch(client, "e", WatchOption.builder().withNoPut(true), deletes);
            var second = watch(client, "e", WatchOption.builder().withNoDelete(true), puts)) {
            put("e=1");
            await(kv.delete(bytes("e")));
            put("e=2");
            await(kv.delete(bytes("e")));
            deletes.await("DELETE e=", "DELETE e=");
            puts.await("PUT e=1", "PUT e=2");
        }
    }

    @Test
    void the_events_of_a_transaction_come_together() {
        List<List<String>> batches = new CopyOnWriteArrayList<>();
        long revision = await(kv.txn().Then(Op.put(bytes("f/1"), bytes("v"), PutOption.DEFAULT),
            Op.put(bytes("f/2"), bytes("v"), PutOption.DEFAULT)).commit()).getHeader().getRevision();
        try (var watcher = client.getWatchClient().watch(bytes("f/"),
            WatchOption.builder().isPrefix(true).withRevision(revision).build(),
            response -> batches.add(response.getEvents().stream().map(Seen::text).toList()))) {
            eventually("the events", () -> !batches.isEmpty());
            assertEquals(List.of(List.of("PUT f/1=v", "PUT f/2=v")), batches);
        }
    }

    @Test
    void progress_is_told_when_asked_for() {
        Seen seen = new Seen();
        try (var watcher = watch(client, "g", WatchOption.builder(), seen)) {
            long revision = put("elsewhere=v").getHeader().getRevision();
            // A server may leave a question unanswered while the watch is behind.
            eventually("the progress", () -> {
                watcher.requestProgress();
                return seen.progress.get() >= revision;
            });
            assertEquals(List.of(), seen.events);
        }
    }

    /** etcd 3.5 calls the setting experimental. Each server leaves alone what it does not know in its environment. */
    @Test
    void progress_is_told_from_time_to_time() throws Exception {
        try (Server own = new Server(Map.of("ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL", "100ms",
            "ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "100ms"))) {
            Client client = own.client();
            Seen told = new Seen();
            Seen untold = new Seen();
            watch(client, "k", WatchOption.builder(), untold);
            watch(client, "k", WatchOption.builder().withProgressNotify(true), told);
            long revision = await(client.getKVClient().put(bytes("elsewhere"), bytes("v"))).getHeader().getRevision();
            eventually("the progress", () -> told.progress.get() == revision);
            assertEquals(0, untold.progress.get());
        }
    }

    @Test
    void a_closed_watch_sees_nothing_more() {
        Seen closed = new Seen();
        Seen open = new Seen();
        try (var other = watch(client, "h", WatchOption.builder(), open)) {
            var watcher = watch(client, "h", WatchOption.builder(), closed);
            put("h=1");
            closed.await("PUT h=1");
            watcher.close();
            assertTrue(watcher.isClosed());
            assertEquals(1, closed.completed.get());
            put("h=2");
            open.await("PUT h=1", "PUT h=2");
            closed.await("PUT h=1");
            assertEquals(List.of(), closed.errors);
        }
    }

    @Test
    void compacted_history_is_refused_and_says_from_where_there_is_some() throws Exception {
        try (Server own = new Server()) {
            Client client = own.client();
            KV kv = client.getKVClient();
            long first = await(kv.put(bytes("k"), bytes("1"))).getHeader().getRevision();
            await(kv.put(bytes("k"), bytes("2")));
            long last = await(kv.put(bytes("k"), bytes("3"))).getHeader().getRevision();
            await(kv.compact(last));
            Seen seen = new Seen();
            var watcher = client.getWatchClient().watch(bytes("k"), WatchOption.builder().withRevision(first).build(), seen);
            eventually("the end of the watch", () -> seen.completed.get() == 1);
            assertTrue(watcher.isClosed());
            assertEquals(last, assertInstanceOf(CompactedException.class, seen.errors.get(0)).getCompactedRevision());
            Seen again = new Seen();
            watch(client, "k", WatchOption.builder().withRevision(last), again);
            again.await("PUT k=3");
        }
    }

    /** The client has a stream of its own for each watch, all on one connection. */
    @Test
    void hundreds_of_watches_on_one_connection() {
        List<Seen> all = new ArrayList<>();
        List<Watch.Watcher> watchers = new ArrayList<>();
        for (int i = 0; i < 300; i++) {
            all.add(new Seen());
            watchers.add(watch(client, "i/" + i, WatchOption.builder(), all.get(i)));
        }
        for (int i = 0; i < all.size(); i++) {
            put("i/" + i + "=" + i);
        }
        for (int i = 0; i < all.size(); i++) {
            all.get(i).await("PUT i/" + i + "=" + i);
        }
        watchers.forEach(Watch.Watcher::close);
        assertEquals(300, await(kv.delete(bytes("i/"), DeleteOption.builder().isPrefix(true).build())).getDeleted());
    }

    /** Short, since etcd sends up to a thousand revisions in one message, and the client takes no more than 4 MiB. */
    @Test
    void a_lot_of_history() {
        List<CompletableFuture<PutResponse>> puts = new ArrayList<>();
        for (int i = 0; i < 2_500; i++) {
            puts.add(kv.put(bytes("j"), bytes("v")));
        }
        List<Long> written = puts.stream().map(Server::await).map(put -> put.getHeader().getRevision()).sorted().toList();
        List<Long> seen = new CopyOnWriteArrayList<>();
        try (var watcher = client.getWatchClient().watch(bytes("j"), WatchOption.builder().withRevision(written.get(0)).build(),
            response -> response.getEvents().forEach(event -> seen.add(event.getKeyValue().getModRevision())))) {
            eventually("all events", () -> seen.size() >= written.size());
            assertEquals(written, seen);
        }
    }

    @ParameterizedTest(name = "a watch goes on after a restart, in good order: {0}")
    @ValueSource(booleans = {false, true})
    void a_watch_goes_on_after_a_restart(boolean inGoodOrder) throws Exception {
        try (Server own = new Server()) {
            Seen seen = new Seen();
            var watcher = watch(own.client(), "r/", WatchOption.builder().isPrefix(true), seen);
            KV writer = own.client().getKVClient();
            await(writer.put(bytes("r/1"), bytes("v")));
            seen.await("PUT r/1=v");
            if (inGoodOrder) {
                own.stop();
            } else {
                own.kill();
            }
            eventually("the client sees that the server is gone", () -> !seen.errors.isEmpty());
            assertTrue(describe(seen.errors.get(0)).startsWith("UNAVAILABLE "), seen.errors.toString());
            own.start();
            // These may come before the watch is there again, and are not lost.
            KV reconnected = own.client().getKVClient();
            await(reconnected.put(bytes("r/2"), bytes("v")));
            await(reconnected.put(bytes("r/3"), bytes("v")));
            seen.await("PUT r/1=v", "PUT r/2=v", "PUT r/3=v");
            eventually("the watch is there again", () -> seen.created.get() >= 2);
            await(reconnected.put(bytes("r/4"), bytes("v")));
            seen.await("PUT r/1=v", "PUT r/2=v", "PUT r/3=v", "PUT r/4=v");
            assertFalse(watcher.isClosed());
        }
    }

    private static PutResponse put(String pair) {
        String[] parts = pair.split("=");
        return await(kv.put(bytes(parts[0]), bytes(parts[1])));
    }

    /** Returns when the watch is there: the client does not wait for that, and what is put before would be missed. */
    private static Watch.Watcher watch(Client client, String key, WatchOption.Builder option, Seen seen) {
        var watcher = client.getWatchClient().watch(bytes(key), option.withCreateNotify(true).build(), seen);
        eventually("the watch is there", () -> seen.created.get() == 1);
        return watcher;
    }
}

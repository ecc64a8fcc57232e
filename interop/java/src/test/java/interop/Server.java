package interop;

import static java.nio.charset.StandardCharsets.UTF_8;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.fail;

import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.ClientBuilder;
import io.etcd.jetcd.common.exception.EtcdException;
import io.etcd.jetcd.common.exception.EtcdExceptionFactory;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;

/** A server of the kind under test and its clients, for as long as a test needs them. ETCD_BIN names the binary. */
final class Server implements AutoCloseable {
    /** Bounds every wait: long enough for a loaded machine, short enough to fail a test that hangs. */
    static final int PATIENCE_S = 30;

    final String url;
    private final int port;
    private final Path dir;
    private final ProcessBuilder command;
    private final List<Client> clients = new ArrayList<>();
    private Process process;

    Server() {
        this(Map.of());
    }

    /** Starts a single member on free ports, with more settings in its environment. */
    Server(Map<String, String> environment) {
        String binary = System.getenv("ETCD_BIN");
        assertNotNull(binary, "ETCD_BIN does not name a server");
        // Both ports are held until both are known, so that they differ.
        try (ServerSocket client = listen(); ServerSocket peer = listen()) {
            dir = Files.createTempDirectory("interop-");
            port = client.getLocalPort();
            url = "http://127.0.0.1:" + port;
            String peerUrl = "http://127.0.0.1:" + peer.getLocalPort();
            command = new ProcessBuilder(binary, "--name=m", "--data-dir=" + dir.resolve("data"), "--log-level=error",
                "--listen-client-urls=" + url, "--advertise-client-urls=" + url, "--listen-peer-urls=" + peerUrl,
                "--initial-advertise-peer-urls=" + peerUrl, "--initial-cluster=m=" + peerUrl);
        } catch (IOException error) {
            throw new AssertionError(error);
        }
        command.environment().putAll(environment);
        command.redirectErrorStream(true).redirectOutput(ProcessBuilder.Redirect.appendTo(log().toFile()));
        start();
    }

    void start() {
        try {
            process = command.start();
        } catch (IOException error) {
            throw new AssertionError(error);
        }
        eventually("the server listens", this::listens);
    }

    /** Ends the server in good order. */
    void stop() {
        process.destroy();
        await(process.onExit());
    }

    void kill() {
        process.destroyForcibly();
        await(process.onExit());
    }

    Client client() {
        return client(Client.builder());
    }

    /** Connects as the builder says; the client is closed with the server. */
    Client client(ClientBuilder builder) {
        Client client = builder.endpoints(url).build();
        clients.add(client);
        return client;
    }

    @Override
    public void close() throws IOException {
        clients.forEach(Client::close);
        kill();
        try (var files = Files.walk(dir)) {
            for (Path path : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(path);
            }
        }
    }

    private Path log() {
        return dir.resolve("log");
    }

    private boolean listens() throws IOException {
        if (!process.isAlive()) {
            fail("the server ended and said:\n" + Files.readString(log()));
        }
        try (Socket probe = new Socket(InetAddress.getLoopbackAddress(), port)) {
            return probe.isConnected();
        } catch (IOException refused) {
            return false;
        }
    }

    private static ServerSocket listen() throws IOException {
        return new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"));
    }

    /** What a call answers, or its error, within the patience. */
    static <T> T await(CompletableFuture<T> call) {
        try {
            return call.get(PATIENCE_S, SECONDS);
        } catch (ExecutionException failed) {
            throw new AssertionError("the call failed: " + failed.getCause(), failed.getCause());
        } catch (TimeoutException | InterruptedException error) {
            throw new AssertionError("no answer after " + PATIENCE_S + " s", error);
        }
    }

    static boolean fails(CompletableFuture<?> call) {
        return await(call.handle((answer, error) -> error != null));
    }

    /** The error of a call that must fail. */
    static Throwable failure(CompletableFuture<?> call) {
        try {
            return fail("no error but " + call.get(PATIENCE_S, SECONDS));
        } catch (ExecutionException failed) {
            return failed.getCause();
        } catch (TimeoutException | InterruptedException error) {
            throw new AssertionError("no answer after " + PATIENCE_S + " s", error);
        }
    }

    /** Code and text of the error of a call that must fail, as in "NOT_FOUND etcdserver: requested lease not found". */
    static String refusal(CompletableFuture<?> call) {
        return describe(failure(call));
    }

    static String describe(Throwable error) {
        EtcdException etcd = EtcdExceptionFactory.toEtcdException(error);
        return etcd.getErrorCode() + " " + etcd.getMessage();
    }

    static void eventually(String what, Callable<Boolean> holds) {
        long deadline = System.nanoTime() + SECONDS.toNanos(PATIENCE_S);
        try {
            while (!holds.call()) {
                if (System.nanoTime() > deadline) {
                    fail("not true after " + PATIENCE_S + " s: " + what);
                }
                Thread.sleep(20);
            }
        } catch (RuntimeException error) {
            throw error;
        } catch (Exception error) {
            throw new AssertionError(what, error);
        }
    }

    static ByteSequence bytes(String text) {
        return ByteSequence.from(text, UTF_8);
    }
}

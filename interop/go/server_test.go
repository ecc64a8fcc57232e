// Package interop drives a server with the Go client that most users of etcd have.
//
// Each test that changes more than its own keys starts a server of its own. The binary is named by ETCD_BIN.
package interop

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// patience bounds every wait: long enough for a loaded machine, short enough to fail a hanging test.
const patience = 30 * time.Second

type server struct {
	endpoint  string
	dir       string
	arguments []string
	process   *exec.Cmd
	// exited is closed when the process has ended.
	exited chan struct{}
}

// startServer runs a single member on free ports until the end of the test.
func startServer(t *testing.T, more ...string) *server {
	t.Helper()
	client, peer := freeAddress(t), freeAddress(t)
	dir := t.TempDir()
	s := &server{endpoint: client, dir: dir, arguments: append([]string{
		"--name=m", "--data-dir=" + filepath.Join(dir, "data"), "--log-level=error",
		"--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer,
		"--initial-cluster=m=http://" + peer,
	}, more...)}
	t.Cleanup(func() { s.end(t, os.Kill) })
	s.start(t)
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	binary := os.Getenv("ETCD_BIN")
	if binary == "" {
		t.Fatal("ETCD_BIN does not name a server")
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	s.process = exec.Command(binary, s.arguments...)
	s.process.Stdout, s.process.Stderr = log, log
	must(t, s.process.Start())
	process, exited := s.process, make(chan struct{})
	s.exited = exited
	go func() {
		_ = process.Wait() // An exit by signal is an error to Wait, and expected here.
		close(exited)
	}()
	// A client that finds nobody waits a second before it tries again.
	eventually(t, "the server listens", func() bool {
		select {
		case <-exited:
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("the server ended and said:\n%s", said)
		default:
		}
		connection, err := net.Dial("tcp", s.endpoint)
		if err == nil {
			connection.Close()
		}
		return err == nil
	})
}

func (s *server) end(t *testing.T, signal os.Signal) {
	t.Helper()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(signal) // Fails only if the process has ended already.
	<-s.exited
	s.process = nil
	if t.Failed() {
		log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
		t.Logf("the server said:\n%s", log)
	}
}

// restart ends the server in good order or by force, and starts it on the same data and ports.
func (s *server) restart(t *testing.T, signal syscall.Signal) {
	t.Helper()
	s.end(t, signal)
	s.start(t)
}

// dial returns a client that has reached the server, closed at the end of the test.
func (s *server) dial(t *testing.T, change ...func(*clientv3.Config)) *clientv3.Client {
	t.Helper()
	config := clientv3.Config{Endpoints: []string{s.endpoint}, DialTimeout: patience, Logger: zap.NewNop()}
	for _, apply := range change {
		apply(&config)
	}
	client, err := clientv3.New(config)
	must(t, err)
	t.Cleanup(func() { client.Close() })
	eventually(t, "the server answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := client.Status(ctx, s.endpoint)
		return err == nil
	})
	return client
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// limited is a context that ends a call that hangs.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not true after %v: %s", patience, what)
		}
	}
}

package interop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// next takes n events, in words.
func next(t *testing.T, watch clientv3.WatchChan, n int) []string {
	t.Helper()
	var out []string
	deadline := time.After(patience)
	for len(out) < n {
		select {
		case response, open := <-watch:
			if !open {
				t.Fatalf("the watch ended after %v", out)
			}
			must(t, response.Err())
			for _, event := range response.Events {
				out = append(out, fmt.Sprintf("%s %s=%s", event.Type, event.Kv.Key, event.Kv.Value))
			}
		case <-deadline:
			t.Fatalf("only %d of %d events: %v", len(out), n, out)
		}
	}
	return out
}

func text(events []string) string { return strings.Join(events, ", ") }

func TestWatchDeliversInOrder(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	watch := client.Watch(ctx, "a", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	created := <-watch
	equal(t, "created", created.Created, true)
	_, err := client.Put(ctx, "a1", "x")
	must(t, err)
	_, err = client.Put(ctx, "b", "not watched")
	must(t, err)
	_, err = client.Txn(ctx).Then(clientv3.OpPut("a2", "y"), clientv3.OpDelete("a1")).Commit()
	must(t, err)
	equal(t, "events", text(next(t, watch, 3)), "PUT a1=x, PUT a2=y, DELETE a1=")
}

func TestWatchOptions(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	first, err := client.Put(ctx, "k", "1")
	must(t, err)
	_, err = client.Put(ctx, "k", "2")
	must(t, err)
	_, err = client.Delete(ctx, "k")
	must(t, err)

	history := client.Watch(ctx, "k", clientv3.WithRev(first.Header.Revision), clientv3.WithFilterDelete())
	equal(t, "history without deletes", text(next(t, history, 2)), "PUT k=1, PUT k=2")
	filtered := client.Watch(ctx, "k", clientv3.WithRev(first.Header.Revision), clientv3.WithFilterPut(), clientv3.WithPrevKV())
	response := <-filtered
	must(t, response.Err())
	equal(t, "the deleted value", string(response.Events[0].PrevKv.Value), "2")

	must(t, client.RequestProgress(ctx))
	eventually(t, "a progress notification", func() bool {
		select {
		case response := <-filtered:
			return response.IsProgressNotify() && response.Header.Revision == first.Header.Revision+2
		default:
			return false
		}
	})
}

func TestWatchOfCompactedHistoryIsCancelled(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	var last int64
	for range 4 {
		put, err := client.Put(ctx, "k", "v")
		must(t, err)
		last = put.Header.Revision
	}
	_, err := client.Compact(ctx, last)
	must(t, err)
	response := <-client.Watch(ctx, "k", clientv3.WithRev(last-2))
	equal(t, "cancelled", response.Canceled, true)
	equal(t, "compact revision", response.CompactRevision, last)
	equal(t, "error", errors.Is(response.Err(), rpctypes.ErrCompacted), true)
}

func TestCancelledWatchEnds(t *testing.T) {
	client := startServer(t).dial(t)
	ctx, cancel := context.WithCancel(limited(t))
	watch := client.Watch(ctx, "k", clientv3.WithCreatedNotify())
	<-watch
	cancel()
	eventually(t, "the channel is closed", func() bool {
		select {
		case _, open := <-watch:
			return !open
		default:
			return false
		}
	})
}

// A watcher must see every event exactly once, whatever happens to the server meanwhile.
func TestWatchResumesOverRestarts(t *testing.T) {
	s := startServer(t)
	client, ctx := s.dial(t), limited(t)
	watch := client.Watch(ctx, "n/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watch
	writer := s.dial(t)
	var want []string
	for round, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, 0} {
		for i := range 20 {
			key := fmt.Sprintf("n/%d-%02d", round, i)
			_, err := writer.Put(ctx, key, "v")
			must(t, err)
			want = append(want, "PUT "+key+"=v")
		}
		if signal != 0 {
			s.restart(t, signal)
			writer = s.dial(t)
		}
	}
	equal(t, "events", text(next(t, watch, len(want))), text(want))
}

func TestLargeEventsArriveInFragments(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	var first int64
	for i := range 5 {
		put, err := client.Put(ctx, fmt.Sprint("k", i), strings.Repeat("x", 1<<20))
		must(t, err)
		if i == 0 {
			first = put.Header.Revision
		}
	}
	watch := client.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithFragment())
	equal(t, "events", len(next(t, watch, 5)), 5)
}

package interop

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
)

func keys(response *clientv3.GetResponse) string {
	var out []string
	for _, kv := range response.Kvs {
		out = append(out, string(kv.Key))
	}
	return strings.Join(out, " ")
}

func TestPutGetDelete(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	first, err := client.Put(ctx, "fruit/apple", "red")
	must(t, err)
	second, err := client.Put(ctx, "fruit/apple", "green", clientv3.WithPrevKV())
	must(t, err)
	equal(t, "previous value", string(second.PrevKv.Value), "red")
	equal(t, "revisions grow by one", second.Header.Revision, first.Header.Revision+1)

	got, err := client.Get(ctx, "fruit/apple")
	must(t, err)
	kv := got.Kvs[0]
	equal(t, "value", string(kv.Value), "green")
	equal(t, "version", kv.Version, 2)
	equal(t, "create revision", kv.CreateRevision, first.Header.Revision)
	equal(t, "mod revision", kv.ModRevision, second.Header.Revision)

	old, err := client.Get(ctx, "fruit/apple", clientv3.WithRev(first.Header.Revision))
	must(t, err)
	equal(t, "old value", string(old.Kvs[0].Value), "red")

	deleted, err := client.Delete(ctx, "fruit/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	must(t, err)
	equal(t, "deleted", deleted.Deleted, 1)
	equal(t, "deleted value", string(deleted.PrevKvs[0].Value), "green")
	gone, err := client.Get(ctx, "fruit/apple", clientv3.WithSerializable())
	must(t, err)
	equal(t, "keys left", gone.Count, 0)
}

func TestRangeOptions(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	for _, pair := range []string{"b=3", "a=1", "d=2", "c=4", "z=0"} {
		key, value, _ := strings.Cut(pair, "=")
		_, err := client.Put(ctx, key, value)
		must(t, err)
	}
	newest, err := client.Get(ctx, "z")
	must(t, err)
	revision := newest.Kvs[0].ModRevision
	for _, c := range []struct {
		name    string
		options []clientv3.OpOption
		want    string
		count   int64
	}{
		{"range", []clientv3.OpOption{clientv3.WithRange("d")}, "a b c", 3},
		{"from key", []clientv3.OpOption{clientv3.WithFromKey()}, "a b c d z", 5},
		{"limit keeps the count", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithLimit(2)}, "a b", 5},
		{"by value, falling", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortDescend)}, "c b d a z", 5},
		{"by mod revision", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortAscend)}, "b a d c z", 5},
		{"old ones", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithMaxModRev(revision - 3)}, "a b", 5},
		{"count only", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithCountOnly()}, "", 5},
	} {
		got, err := client.Get(ctx, "a", c.options...)
		must(t, err)
		equal(t, c.name, keys(got), c.want)
		equal(t, c.name+": count", got.Count, c.count)
	}
	top, err := client.Get(ctx, "", clientv3.WithLastRev()...)
	must(t, err)
	equal(t, "the newest key", keys(top), "z")
	bare, err := client.Get(ctx, "a", clientv3.WithKeysOnly())
	must(t, err)
	equal(t, "keys only have no value", len(bare.Kvs[0].Value), 0)
}

func TestTransactions(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	created, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision("lock"), "=", 0)).
		Then(clientv3.OpPut("lock", "me"), clientv3.OpGet("lock")).
		Else(clientv3.OpGet("lock")).
		Commit()
	must(t, err)
	equal(t, "succeeded", created.Succeeded, true)
	inside := created.Responses[1].GetResponseRange().Kvs[0]
	equal(t, "a get sees the put before it", string(inside.Value), "me")

	nested := clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.Value("lock"), ">", "a")},
		[]clientv3.Op{clientv3.OpDelete("lock", clientv3.WithPrevKV())}, nil)
	refused, err := client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version("lock"), "!=", 1)).
		Then(clientv3.OpPut("wrong", "")).
		Else(nested).
		Commit()
	must(t, err)
	equal(t, "refused", refused.Succeeded, false)
	removal := refused.Responses[0].GetResponseTxn().Responses[0].GetResponseDeleteRange()
	equal(t, "nested delete", string(removal.PrevKvs[0].Value), "me")

	_, err = client.Txn(ctx).Then(clientv3.OpPut("x", "1"), clientv3.OpPut("x", "2")).Commit()
	equal(t, "two puts of one key", errors.Is(err, rpctypes.ErrDuplicateKey), true)
	var many []clientv3.Op
	for i := range 129 {
		many = append(many, clientv3.OpPut(fmt.Sprint(i), ""))
	}
	_, err = client.Txn(ctx).Then(many...).Commit()
	equal(t, "129 operations", errors.Is(err, rpctypes.ErrTooManyOps), true)
}

func TestErrorsAreKnownToTheClient(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	var last int64
	for i := range 5 {
		put, err := client.Put(ctx, "k", fmt.Sprint(i))
		must(t, err)
		last = put.Header.Revision
	}
	_, err := client.Compact(ctx, last-1, clientv3.WithCompactPhysical())
	must(t, err)
	_, err = client.Get(ctx, "k", clientv3.WithRev(last-2))
	equal(t, "compacted", errors.Is(err, rpctypes.ErrCompacted), true)
	_, err = client.Compact(ctx, last-1)
	equal(t, "compacted twice", errors.Is(err, rpctypes.ErrCompacted), true)
	_, err = client.Get(ctx, "k", clientv3.WithRev(last+1))
	equal(t, "future", errors.Is(err, rpctypes.ErrFutureRev), true)
	_, err = client.Put(ctx, "", "x")
	equal(t, "empty key", errors.Is(err, rpctypes.ErrEmptyKey), true)
	_, err = client.Put(ctx, "k", "x", clientv3.WithLease(4711))
	equal(t, "no such lease", errors.Is(err, rpctypes.ErrLeaseNotFound), true)
	_, err = client.Put(ctx, "none", "", clientv3.WithIgnoreValue())
	equal(t, "no value to keep", errors.Is(err, rpctypes.ErrKeyNotFound), true)
	_, err = client.Put(ctx, "big", strings.Repeat("x", 1600<<10))
	equal(t, "too large", errors.Is(err, rpctypes.ErrRequestTooLarge), true)
	got, err := client.Get(ctx, "k", clientv3.WithRev(last-1))
	must(t, err)
	equal(t, "the compacted revision itself stays", string(got.Kvs[0].Value), "3")
}

func TestNamespace(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	inner := namespace.NewKV(client.KV, "app/")
	_, err := inner.Put(ctx, "k", "v")
	must(t, err)
	got, err := client.Get(ctx, "app/k")
	must(t, err)
	equal(t, "stored below the prefix", string(got.Kvs[0].Value), "v")
	seen, err := inner.Get(ctx, "", clientv3.WithPrefix())
	must(t, err)
	equal(t, "seen without it", keys(seen), "k")
}

package interop

import (
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func TestLeaseGrantAndRevoke(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	lease, err := client.Grant(ctx, 600)
	must(t, err)
	equal(t, "granted time", lease.TTL, 600)
	for _, key := range []string{"b", "a"} {
		_, err = client.Put(ctx, key, "v", clientv3.WithLease(lease.ID))
		must(t, err)
	}
	got, err := client.Get(ctx, "a")
	must(t, err)
	equal(t, "lease of the key", clientv3.LeaseID(got.Kvs[0].Lease), lease.ID)

	left, err := client.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	must(t, err)
	equal(t, "granted", left.GrantedTTL, 600)
	equal(t, "keys", len(left.Keys), 2)
	leases, err := client.Leases(ctx)
	must(t, err)
	equal(t, "leases", len(leases.Leases), 1)

	_, err = client.Revoke(ctx, lease.ID)
	must(t, err)
	gone, err := client.Get(ctx, "", clientv3.WithPrefix())
	must(t, err)
	equal(t, "keys left", gone.Count, 0)
	_, err = client.Revoke(ctx, lease.ID)
	equal(t, "revoked twice", errors.Is(err, rpctypes.ErrLeaseNotFound), true)
	left, err = client.TimeToLive(ctx, lease.ID)
	must(t, err)
	equal(t, "time left", left.TTL, -1)
}

func TestLeaseExpiry(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	lease, err := client.Grant(ctx, 1)
	must(t, err)
	_, err = client.Put(ctx, "k", "v", clientv3.WithLease(lease.ID))
	must(t, err)
	equal(t, "the watch sees the expiry", text(next(t, client.Watch(ctx, "k"), 1)), "DELETE k=")
}

func TestLeaseKeepAlive(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	lease, err := client.Grant(ctx, 3)
	must(t, err)
	answers, err := client.KeepAlive(ctx, lease.ID)
	must(t, err)
	for range 4 {
		answer := <-answers
		if answer == nil {
			t.Fatal("the lease was lost")
		}
		equal(t, "renewed", answer.TTL, 3)
	}
	once, err := client.KeepAliveOnce(ctx, lease.ID)
	must(t, err)
	equal(t, "renewed once", once.TTL, 3)
	_, err = client.KeepAliveOnce(ctx, 4711)
	equal(t, "unknown lease", errors.Is(err, rpctypes.ErrLeaseNotFound), true)
}

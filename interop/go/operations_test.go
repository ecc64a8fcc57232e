package interop

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func TestStatusAndMembers(t *testing.T) {
	s := startServer(t)
	client, ctx := s.dial(t), limited(t)
	status, err := client.Status(ctx, s.endpoint)
	must(t, err)
	equal(t, "leads itself", status.Leader, status.Header.MemberId)
	equal(t, "has a version", status.Version != "", true)
	equal(t, "has a database", status.DbSize > 0, true)
	members, err := client.MemberList(ctx)
	must(t, err)
	equal(t, "members", len(members.Members), 1)
	equal(t, "name", members.Members[0].Name, "m")
	equal(t, "client URL", members.Members[0].ClientURLs[0], "http://"+s.endpoint)
	alarms, err := client.AlarmList(ctx)
	must(t, err)
	equal(t, "alarms", len(alarms.Alarms), 0)
}

func TestHashesAndDefragment(t *testing.T) {
	s := startServer(t)
	client, ctx := s.dial(t), limited(t)
	put, err := client.Put(ctx, "k", "v")
	must(t, err)
	before, err := client.HashKV(ctx, s.endpoint, put.Header.Revision)
	must(t, err)
	_, err = client.Put(ctx, "k", "w")
	must(t, err)
	_, err = client.Defragment(ctx, s.endpoint)
	must(t, err)
	after, err := client.HashKV(ctx, s.endpoint, put.Header.Revision)
	must(t, err)
	equal(t, "hash of the same revision", after.Hash, before.Hash)
	now, err := client.HashKV(ctx, s.endpoint, 0)
	must(t, err)
	equal(t, "another hash after a put", now.Hash != after.Hash, true)
}

// The last 32 bytes of a snapshot are the SHA-256 of all before.
func TestSnapshot(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	_, err := client.Put(ctx, "k", "a value to be found")
	must(t, err)
	snapshot, err := client.Snapshot(ctx)
	must(t, err)
	defer snapshot.Close()
	all, err := io.ReadAll(snapshot)
	must(t, err)
	equal(t, "pages of 512 bytes and a hash", len(all)%512, sha256.Size)
	data, sum := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
	want := sha256.Sum256(data)
	equal(t, "hash", bytes.Equal(sum, want[:]), true)
	equal(t, "holds the value", bytes.Contains(data, []byte("a value to be found")), true)
}

func TestAuth(t *testing.T) {
	s := startServer(t)
	client, ctx := s.dial(t), limited(t)
	_, err := client.RoleAdd(ctx, "reader")
	must(t, err)
	_, err = client.RoleGrantPermission(ctx, "reader", "public/", clientv3.GetPrefixRangeEnd("public/"), clientv3.PermissionType(clientv3.PermRead))
	must(t, err)
	for user, role := range map[string]string{"root": "root", "ann": "reader"} {
		_, err = client.UserAdd(ctx, user, user+"-secret")
		must(t, err)
		_, err = client.RoleAdd(ctx, role)
		equal(t, "role", err == nil || errors.Is(err, rpctypes.ErrRoleAlreadyExist), true)
		_, err = client.UserGrantRole(ctx, user, role)
		must(t, err)
	}
	_, err = client.AuthEnable(ctx)
	must(t, err)

	as := func(user string) *clientv3.Client {
		return s.dial(t, func(c *clientv3.Config) { c.Username, c.Password = user, user+"-secret" })
	}
	root, ann := as("root"), as("ann")
	_, err = root.Put(ctx, "public/k", "v")
	must(t, err)
	got, err := ann.Get(ctx, "public/k")
	must(t, err)
	equal(t, "allowed read", string(got.Kvs[0].Value), "v")
	_, err = ann.Put(ctx, "public/k", "w")
	equal(t, "write", errors.Is(err, rpctypes.ErrPermissionDenied), true)
	_, err = ann.Get(ctx, "private/k")
	equal(t, "read elsewhere", errors.Is(err, rpctypes.ErrPermissionDenied), true)
	_, err = client.Get(ctx, "public/k")
	equal(t, "nobody", errors.Is(err, rpctypes.ErrUserEmpty), true)
	_, err = clientv3.New(clientv3.Config{Endpoints: []string{s.endpoint}, DialTimeout: patience, Logger: zap.NewNop(), Username: "ann", Password: "wrong"})
	equal(t, "wrong password", errors.Is(err, rpctypes.ErrAuthFailed), true)
	_, err = root.AuthDisable(ctx)
	must(t, err)
	_, err = client.Get(ctx, "public/k")
	must(t, err)
}

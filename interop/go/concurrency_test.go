package interop

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func session(t *testing.T, client *clientv3.Client) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(client, concurrency.WithTTL(60))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMutexExcludes(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	var group sync.WaitGroup
	inside, entered := 0, 0
	failures := make(chan error, 5)
	for range 5 {
		s := session(t, client)
		group.Add(1)
		go func() {
			defer group.Done()
			mutex := concurrency.NewMutex(s, "/mutex")
			for range 4 {
				if err := mutex.Lock(ctx); err != nil {
					failures <- err
					return
				}
				// Not atomic on purpose: only the mutex under test keeps these apart.
				inside++
				if inside != 1 {
					failures <- fmt.Errorf("%d holders", inside)
				}
				entered++
				inside--
				if err := mutex.Unlock(ctx); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	equal(t, "times entered", entered, 20)
}

func TestTryLockAndLostSession(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	holder := session(t, client)
	held := concurrency.NewMutex(holder, "/mutex")
	must(t, held.Lock(ctx))
	other := concurrency.NewMutex(session(t, client), "/mutex")
	equal(t, "locked", errors.Is(other.TryLock(ctx), concurrency.ErrLocked), true)
	must(t, holder.Close())
	must(t, other.Lock(ctx))
}

func TestElection(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	first := concurrency.NewElection(session(t, client), "/election")
	second := concurrency.NewElection(session(t, client), "/election")
	must(t, first.Campaign(ctx, "one"))
	leaders := second.Observe(ctx)
	observed := <-leaders
	equal(t, "leader", string(observed.Kvs[0].Value), "one")
	won := make(chan error, 1)
	go func() { won <- second.Campaign(ctx, "two") }()
	must(t, first.Proclaim(ctx, "one again"))
	observed = <-leaders
	equal(t, "proclaimed", string(observed.Kvs[0].Value), "one again")
	must(t, first.Resign(ctx))
	must(t, <-won)
	leader, err := first.Leader(ctx)
	must(t, err)
	equal(t, "next leader", string(leader.Kvs[0].Value), "two")
}

// Money moves between accounts, at every level of isolation that keeps the sum.
func TestSTMKeepsTheSum(t *testing.T) {
	client, ctx := startServer(t).dial(t), limited(t)
	for _, level := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		for account := range 4 {
			_, err := client.Put(ctx, fmt.Sprint("account/", account), "100")
			must(t, err)
		}
		var group sync.WaitGroup
		failures := make(chan error, 64)
		for worker := range 4 {
			group.Add(1)
			go func() {
				defer group.Done()
				for i := range 10 {
					from, to := fmt.Sprint("account/", (worker+i)%4), fmt.Sprint("account/", (worker+2*i+1)%4)
					if from == to {
						continue
					}
					_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
						a, errA := strconv.Atoi(stm.Get(from))
						b, errB := strconv.Atoi(stm.Get(to))
						stm.Put(from, strconv.Itoa(a-5))
						stm.Put(to, strconv.Itoa(b+5))
						return errors.Join(errA, errB)
					}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
					if err != nil {
						failures <- err
					}
				}
			}()
		}
		group.Wait()
		close(failures)
		for err := range failures {
			t.Error(err)
		}
		got, err := client.Get(ctx, "account/", clientv3.WithPrefix())
		must(t, err)
		sum := 0
		for _, kv := range got.Kvs {
			value, err := strconv.Atoi(string(kv.Value))
			must(t, err)
			sum += value
		}
		equal(t, "sum", sum, 400)
	}
}

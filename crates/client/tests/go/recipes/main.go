// Takes turns with a Rust program: the same mutex, election and service, through etcd's own Go packages. Each line on
// stdin lets it go one step on.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
)

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	steps := bufio.NewScanner(os.Stdin)
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:]})
	must(err)
	session, err := concurrency.NewSession(client)
	must(err)

	mutex := concurrency.NewMutex(session, "m")
	must(mutex.Lock(ctx))
	fmt.Println("holds the mutex")
	steps.Scan()
	must(mutex.Unlock(ctx))

	steps.Scan()
	fmt.Println("trying:", mutex.TryLock(ctx))
	election := concurrency.NewElection(session, "e")
	leader, err := election.Leader(ctx)
	must(err)
	fmt.Println("leader:", string(leader.Kvs[0].Value))

	service, err := endpoints.NewManager(client, "s")
	must(err)
	listed, err := service.List(ctx)
	must(err)
	fmt.Println("endpoints:", listed)
	must(service.AddEndpoint(ctx, "s/go", endpoints.Endpoint{Addr: "2:2", Metadata: "<&>"}))
	fmt.Println("added")
	must(election.Campaign(ctx, "go"))
	steps.Scan()
}

// Registers and resolves the service "my-service" through etcd's own Go packages. Each line on stdin is a command.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const service = "my-service"

// Calls in a row that must all be answered as expected.
const inARow = 20

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// The ids of the clusters that answer some calls; "nobody" when a call fails because there are no endpoints.
func whoAnswers(stub pb.MaintenanceClient) string {
	ids := map[string]bool{}
	for i := 0; i < inARow; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		status, err := stub.Status(ctx, &pb.StatusRequest{})
		cancel()
		if err != nil {
			if strings.Contains(err.Error(), "zero addresses") || strings.Contains(err.Error(), "no children to pick from") {
				return "nobody"
			}
			return err.Error()
		}
		ids[strconv.FormatUint(status.Header.ClusterId, 16)] = true
	}
	var sorted []string
	for id := range ids {
		sorted = append(sorted, id)
	}
	sort.Strings(sorted)
	return strings.Join(sorted, ",")
}

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: os.Args[1:2]})
	must(err)
	manager, err := endpoints.NewManager(client, service)
	must(err)
	builder, err := resolver.NewBuilder(client)
	must(err)
	conn, err := grpc.NewClient("etcd:///"+service,
		grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`))
	must(err)
	stub := pb.NewMaintenanceClient(conn)

	ctx := context.Background()
	living, die := context.WithCancel(ctx)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "until":
			for answer := ""; answer != words[1]; {
				if next := whoAnswers(stub); next != answer {
					answer = next
					fmt.Println("answered by", answer)
				}
			}
			fmt.Println("reached", words[1])
		case "add":
			must(manager.AddEndpoint(ctx, words[1], endpoints.Endpoint{Addr: words[2], Metadata: "by Go"}))
			fmt.Println("added", words[1])
		case "add-leased":
			lease, err := client.Grant(ctx, 2)
			must(err)
			answers, err := client.KeepAlive(living, lease.ID)
			must(err)
			go func() {
				for range answers {
				}
			}()
			must(manager.AddEndpoint(ctx, words[1], endpoints.Endpoint{Addr: words[2]}, clientv3.WithLease(lease.ID)))
			fmt.Println("added", words[1])
		case "die":
			die()
		case "delete":
			must(manager.DeleteEndpoint(ctx, words[1]))
			fmt.Println("deleted", words[1])
		}
	}
}

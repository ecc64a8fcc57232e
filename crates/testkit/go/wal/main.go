// Prints what etcd's own code reads from the log and the snapshots of a member that is down, one fact per line:
//
//	valid-snapshot <index> <term>         each that the log confirms
//	file-snapshot <index> <term> <voters> <learners>    the newest of them that has a file
//	metadata <member> <cluster>
//	state <term> <vote> <commit>          the last one
//	put <index> <term> <key> <value>
//	change <index> <term> <type> <member>
//	entry <index> <term> <type> <bytes>   all others
//
// Ids, keys, values and bytes are in hexadecimal. The log is read from the index that is the second argument: 0, or
// one of the valid snapshots.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/snap"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

func main() {
	dir := filepath.Join(os.Args[1], "member")
	from, err := strconv.ParseUint(os.Args[2], 10, 64)
	check(err)
	logs := zap.NewNop()

	valid, err := wal.ValidSnapshotEntries(logs, filepath.Join(dir, "wal"))
	check(err)
	start := &walpb.Snapshot{}
	for _, snapshot := range valid {
		fmt.Println("valid-snapshot", snapshot.GetIndex(), snapshot.GetTerm())
		if snapshot.GetIndex() == from {
			start = snapshot
		}
	}
	if start.GetIndex() != from {
		check(fmt.Errorf("no snapshot at %d", from))
	}
	printFile(logs, filepath.Join(dir, "snap"), valid)

	verified, err := wal.Verify(logs, filepath.Join(dir, "wal"), start)
	check(err)
	log, err := wal.OpenForRead(logs, filepath.Join(dir, "wal"), start)
	check(err)
	defer log.Close()
	header, state, entries, err := log.ReadAll()
	check(err)
	if !proto.Equal(verified, state) {
		check(fmt.Errorf("verified up to %v, but read %v", verified, state))
	}
	var metadata etcdserverpb.Metadata
	check(proto.Unmarshal(header, &metadata))
	fmt.Printf("metadata %x %x\n", metadata.GetNodeID(), metadata.GetClusterID())
	fmt.Printf("state %d %x %d\n", state.GetTerm(), state.GetVote(), state.GetCommit())
	for _, entry := range entries {
		printEntry(entry)
	}
}

// The file of the newest snapshot that the log confirms: etcd starts from it.
func printFile(logs *zap.Logger, dir string, valid []*walpb.Snapshot) {
	snapshot, err := snap.New(logs, dir).LoadNewestAvailable(valid)
	if err == snap.ErrNoSnapshot {
		return
	}
	check(err)
	metadata := snapshot.GetMetadata()
	state := metadata.GetConfState()
	fmt.Printf("file-snapshot %d %d %x %x\n",
		metadata.GetIndex(), metadata.GetTerm(), state.GetVoters(), state.GetLearners())
}

func printEntry(entry *raftpb.Entry) {
	index, term := entry.GetIndex(), entry.GetTerm()
	switch entry.GetType() {
	case raftpb.EntryConfChange:
		var change raftpb.ConfChange
		check(proto.Unmarshal(entry.GetData(), &change))
		fmt.Printf("change %d %d %d %x\n", index, term, change.GetType(), change.GetNodeId())
	case raftpb.EntryNormal:
		var request etcdserverpb.InternalRaftRequest
		check(proto.Unmarshal(entry.GetData(), &request))
		if put := request.GetPut(); put != nil {
			fmt.Printf("put %d %d %x %x\n", index, term, put.GetKey(), put.GetValue())
			return
		}
		fmt.Printf("entry %d %d 0 %x\n", index, term, entry.GetData())
	default:
		fmt.Printf("entry %d %d %d %x\n", index, term, entry.GetType(), entry.GetData())
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

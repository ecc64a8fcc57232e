// Command check holds a file against bbolt itself: bbolt's consistency check, what it reads, and whether the file can
// still be changed. It prints the SHA-256 of all it read.
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"os"

	bolt "go.etcd.io/bbolt"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.View(check); err != nil {
		return fmt.Errorf("as written: %w", err)
	}
	sum := sha256.New()
	if err := db.View(func(tx *bolt.Tx) error { return digest(tx, sum) }); err != nil {
		return err
	}
	// Every branch is thinned out and refilled, three times.
	for round := 0; round < 3; round++ {
		if err := db.Update(func(tx *bolt.Tx) error { return change(tx, round) }); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := db.View(check); err != nil {
			return fmt.Errorf("after round %d: %w", round, err)
		}
	}
	fmt.Printf("%x\n", sum.Sum(nil))
	return nil
}

func check(tx *bolt.Tx) error {
	var first error
	for err := range tx.Check() {
		if first == nil {
			first = err
		}
	}
	return first
}

func digest(tx *bolt.Tx, sum hash.Hash) error {
	return tx.ForEach(func(name []byte, bucket *bolt.Bucket) error {
		add(sum, name)
		return bucket.ForEach(func(key, value []byte) error {
			add(sum, key)
			add(sum, value)
			return nil
		})
	})
}

func add(sum hash.Hash, part []byte) {
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(part)))
	sum.Write(length[:])
	sum.Write(part)
}

// change deletes all keys but every fourth in one round, and puts some behind the others in the next.
func change(tx *bolt.Tx, round int) error {
	return tx.ForEach(func(_ []byte, bucket *bolt.Bucket) error {
		var keys [][]byte
		err := bucket.ForEach(func(key, _ []byte) error {
			keys = append(keys, append([]byte(nil), key...))
			return nil
		})
		if err != nil {
			return err
		}
		for i, key := range keys {
			if round%2 == 0 && i%4 != 0 {
				err = bucket.Delete(key)
			} else if round%2 == 1 && len(key) < bolt.MaxKeySize {
				err = bucket.Put(append(key, 0), make([]byte, i%700))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

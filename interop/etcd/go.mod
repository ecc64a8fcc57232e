// The end-to-end tests of etcd itself, out of its module.
module etcd

go 1.26

require go.etcd.io/etcd/tests/v3 v3.7.1

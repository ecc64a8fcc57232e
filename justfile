# What CI runs before anything else: formatting, lints, docs, tests.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
    cargo test --workspace --locked

# All tests of the workspace, or of one crate: `just test -p retcd-storage`.
test *ARGS="--workspace":
    cargo test --locked {{ARGS}}

# Clients in other languages against a release build; says what it needs and what it skips.
interop:
    interop/run.sh

# One member on localhost:2379.
run *ARGS:
    cargo run --release --locked --bin etcd -- {{ARGS}}

# Three members on this machine, as in the Procfile; Ctrl-C ends them. The tour is docs/local-cluster.md.
cluster:
    cargo build --release --locked --bin etcd --bin etcdctl
    if command -v goreman >/dev/null; then exec goreman start; fi; \
    pids=; trap 'kill $pids 2>/dev/null; wait' EXIT; trap exit INT TERM; \
    for member in etcd1 etcd2 etcd3; do sh -c "$(sed -n "s/^$member: //p" Procfile)" & pids="$pids $!"; done; wait

# The speed table of docs/performance.md: `just bench suite --help`.
bench *ARGS:
    cargo run --release --locked --bin etcd-bench -- {{ARGS}}

# Replays one seed of the simulation and prints its trace.
sim SEED:
    SIM_SEED={{SEED}} cargo test --locked -p retcd-sim --test seeds clusters_survive -- --nocapture

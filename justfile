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

# The speed table of docs/performance.md: `just bench suite --help`.
bench *ARGS:
    cargo run --release --locked --bin etcd-bench -- {{ARGS}}

# Replays one seed of the consensus simulation and prints its trace.
sim SEED:
    SIM_SEED={{SEED}} cargo test --locked -p retcd-consensus --test cluster agreement_survives -- --nocapture

#!/usr/bin/env bash
# Runs clients of etcd against a server, one suite per client, and counts what passed. See README.md.
# usage: [INTEROP_ALL=1] [ETCD_BIN=path] [ETCDCTL_BIN=path] run.sh [go|python|python-upstream|etcd3gw|openapi|node|java|rust|etcd ...]
set -uo pipefail
cd "$(dirname "$0")"
for candidate in ../target/release/etcd ../target/debug/etcd; do
  [ -n "${ETCD_BIN:-}" ] || { [ -x "$candidate" ] && ETCD_BIN=$candidate; }
done
[ -x "${ETCD_BIN:-}" ] || { echo "no server: build one, or name it in ETCD_BIN" >&2; exit 2; }
ETCD_BIN=$(realpath "$ETCD_BIN")
export COLUMNS=160 ETCD_BIN GOFLAGS=-mod=mod PYTHONDONTWRITEBYTECODE=1 PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python
cache=$PWD/.cache bad=0
mkdir -p "$cache"

# suite NAME TOOL PASS-PATTERN FAIL-PATTERN SKIP-PATTERN: runs the function run_NAME and prints one line.
suite() {
  local name=$1 log=$cache/$1.log code
  command -v "$2" >/dev/null || { echo "$name: skipped, there is no \`$2\` here"; return; }
  "run_${name//-/_}" >"$log" 2>&1
  code=$?
  local passed failed skipped
  passed=$(grep -cE "$3" "$log") failed=$(grep -cE "$4" "$log") skipped=$(grep -cE "$5" "$log")
  echo "$name: $passed passed, $failed failed, $skipped skipped"
  grep -E "$4|$5" "$log" | sed 's/^/  /'
  if [ "$code" -ne 0 ] || [ "$failed" -ne 0 ] || [ "$passed" -eq 0 ]; then
    bad=1
    echo "$name: FAILED (exit code $code); the end of $log:"
    tail -n 25 "$log" | sed 's/^/  | /'
  fi
}

venv() {
  cmp -s python/requirements.txt "$cache/venv/installed" || { python3 -m venv "$cache/venv" &&
    "$cache/venv/bin/pip" install -q -r python/requirements.txt && cp python/requirements.txt "$cache/venv/installed"; }
}
sdist() {
  [ -d "$cache/etcd3-0.12.0" ] || { "$cache/venv/bin/pip" download -q --no-deps --no-binary :all: -d "$cache" etcd3==0.12.0 &&
    tar xzf "$cache/etcd3-0.12.0.tar.gz" -C "$cache"; }
}
gateway_venv() {
  cmp -s gateway/requirements.txt "$cache/gateway-venv/installed" || { python3 -m venv "$cache/gateway-venv" &&
    "$cache/gateway-venv/bin/pip" install -q -r gateway/requirements.txt && cp gateway/requirements.txt "$cache/gateway-venv/installed"; }
}
etcd3gw_sdist() {
  [ -d "$cache/etcd3gw-2.7.0" ] || { "$cache/gateway-venv/bin/pip" download -q --no-deps --no-binary :all: -d "$cache" etcd3gw==2.7.0 &&
    tar xzf "$cache/etcd3gw-2.7.0.tar.gz" -C "$cache"; }
}
compiler() { command -v protoc || { venv >&2 && echo "$cache/venv/bin/protoc"; }; }

# The reason of a skipped test stands on the line before.
run_go() { (cd go && go test -v -count=1 ./... | awk '/^--- SKIP/ { $0 = $0 last } { last = $0; print }'); }
# etcd's own tests, but those of left_out.tsv. They take fixed ports and ten minutes, so they run only when named.
run_etcd() {
  (cd etcd && go test -tags e2e -v -count=1 -p 1 -timeout 30m -skip "$(cut -f 1 left_out.tsv | paste -sd '|')" \
    go.etcd.io/etcd/tests/v3/common go.etcd.io/etcd/tests/v3/e2e -args -bin-dir "$(dirname "$ETCD_BIN")")
}
run_python() { venv && (cd python && "$cache/venv/bin/python" -m pytest -p no:cacheprovider $pytest); }
run_python_upstream() { venv && sdist && (cd "$cache/etcd3-0.12.0" && PYTHONPATH=$OLDPWD/python "$cache/venv/bin/python" -m pytest -p upstream $pytest tests); }
run_node() { (cd node && npm ci --silent && npm test --silent); }
# Maven resets the colours of its output even where it uses none.
run_java() { (cd java && mvn -q -B test 2>&1 | sed $'s/\e\\[[0-9;]*m//g'); }
run_rust() { local protoc; protoc=$(compiler) && (cd rust && PROTOC=$protoc cargo test --locked -- ${INTEROP_ALL:+--include-ignored}); }
run_etcd3gw() { gateway_venv && etcd3gw_sdist && (cd "$cache/etcd3gw-2.7.0" && python3 "$OLDPWD/gateway/with_server.py" "$cache/gateway-venv/bin/python" -m pytest $pytest etcd3gw/tests); }
# Left out: streams do not end, a lock or a campaign may wait for ever, a second member takes the quorum away from the first.
run_openapi() {
  gateway_venv && (cd gateway && SCHEMATHESIS_HOOKS=checks PYTHONPATH=. python3 with_server.py "$cache/gateway-venv/bin/st" run '{url}/openapi.json' \
    --url '{url}' --phases coverage,fuzzing --max-examples 20 --generation-deterministic --request-timeout 60 --no-color \
    --exclude-path-regex '/(watch|keepalive|snapshot|observe|lock|campaign|add|promote)$' \
    -c status_code_conformance,content_type_conformance,response_schema_conformance,no_failure,refusals_have_code_and_message)
}

pytest='-q -rap --no-fold-skipped' # One line for each test, behind all that the tests print.
[ $# -gt 0 ] || set -- go python python-upstream etcd3gw openapi node java rust
for name in "$@"; do
  case $name in
    go | etcd) suite "$name" go '^--- PASS' '^--- FAIL' '^--- SKIP' ;;
    openapi) suite openapi python3 ' [0-9]+ generated' '(❌.*: [0-9]+$|, [0-9]+ found)' '^ *Skipped' ;;
    python | python-upstream | etcd3gw) suite "$name" python3 '^PASSED ' '^(FAILED|ERROR) ' '^SKIPPED ' ;;
    node) suite node npm '^ok [^#]*$' '^not ok ' '^ok .*# SKIP' ;;
    java) suite java mvn '^PASSED ' '^FAILED ' '^SKIPPED ' ;;
    rust) suite rust cargo '^test .* \.\.\. ok' '^test .* \.\.\. FAILED' '^test .* \.\.\. ignored' ;;
    *) echo "unknown suite: $name" >&2; exit 2 ;;
  esac
done
exit $bad

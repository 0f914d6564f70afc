#!/usr/bin/env bash
# Builds both images, runs them as in docker-compose.yml, and says what holds:
#
#   tools/try_image.sh [docker|podman]
#
# The exporter has to be healthy as a user that is not root, on a file system that it
# cannot write, without any capability; to serve /metrics; to keep its token over a
# restart; and to end with status 0 on SIGTERM. The demo has to run, with nobody there to
# listen, and to end on SIGTERM. CI has no container engine: a person runs this.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=${1:-docker}
image=episight-exporter:try
demo=episight-demo:try
name=episight-try-$$
port=${EPISIGHT_WEB_PORT:-18000}
ingest=${EPISIGHT_INGEST_PORT:-15555}

clean() {
    "$engine" rm -f "$name" >/dev/null 2>&1 || true
    "$engine" volume rm "$name" "$name-secrets" >/dev/null 2>&1 || true
}
trap clean EXIT

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    "$engine" logs "$name" >&2 2>/dev/null || true
    exit 1
}

get() { # PATH: what the exporter answers, asked by the name that Prometheus uses
    python3 - "$port" "$1" <<'PY'
import sys, urllib.request
request = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}")
request.add_header("Host", "exporter:8000")
print(urllib.request.urlopen(request, timeout=5).read().decode(), end="")
PY
}

healthy() { # waits for it, a minute at most
    local tries=120
    until get /-/ready >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "it was not ready within a minute"
        sleep 0.5
    done
}

# --- build ---------------------------------------------------------------------------

# Where no registry can be reached, EPISIGHT_BUILD says how else to build.
build() { # IMAGE TARGET
    ${EPISIGHT_BUILD:-"$engine" build} -t "$1" --target "$2" "$ROOT"
    printf 'built: %s, %s bytes\n' "$1" \
        "$("$engine" image inspect --format '{{.Size}}' "$1")"
}
build "$image" exporter
build "$demo" demo

# --- first start ---------------------------------------------------------------------

common=(--read-only --tmpfs /tmp --cap-drop all --security-opt no-new-privileges
    -v "$name:/data")
said=$("$engine" run --rm "${common[@]}" --network none -v "$name-secrets:/secrets" \
    -e PAGE_URL=http://127.0.0.1:8000 -e GRAFANA_URL=http://127.0.0.1:3000 \
    -e GRAFANA_PASSWORD_FILE=/secrets/grafana-password \
    --entrypoint python "$image" /opt/episight/first_start.py)
token=$(sed -n 's/.*token=//p' <<<"$said")
[ -n "$token" ] || fail "no token was printed: $said"
grep -q 'password: ' <<<"$said" || fail "no password was printed"

# --- the exporter --------------------------------------------------------------------

"$engine" run -d --name "$name" "${common[@]}" -p "127.0.0.1:$port:8000" \
    -p "127.0.0.1:$ingest:5555" -e EPISIGHT_WEB_HOST=0.0.0.0 \
    -e EPISIGHT_INGEST_HOST=0.0.0.0 -e EPISIGHT_SECURITY_INSECURE=true \
    -e EPISIGHT_SECURITY_ALLOWED_HOSTS=exporter, "$image" >/dev/null
healthy
[ "$("$engine" exec "$name" id -u)" = 5555 ] || fail "it does not run as user 5555"
if "$engine" exec "$name" touch /opt/episight/x 2>/dev/null; then
    fail "its root can be written"
fi
get /metrics | grep '^episight_build_info' || fail "/metrics is not served"
[ "$("$engine" exec "$name" cat /data/token)" = "$token" ] || fail "the token is another"
if [ "$engine" = podman ]; then # asks now, and needs no timer
    podman healthcheck run "$name" || fail "its health check says that it is not healthy"
fi

"$engine" restart "$name" >/dev/null
healthy
"$engine" stop -t 20 "$name" >/dev/null
status=$("$engine" inspect --format '{{.State.ExitCode}}' "$name")
[ "$status" = 0 ] || fail "SIGTERM ended it with status $status"
printf 'healthy as user 5555 with a read-only root, /metrics served, SIGTERM: status 0\n'

# --- the demo ------------------------------------------------------------------------

"$engine" rm "$name" >/dev/null
"$engine" run -d --name "$name" --read-only --tmpfs /tmp --cap-drop all \
    --security-opt no-new-privileges --network none "$demo" >/dev/null
tries=120
until "$engine" logs "$name" 2>&1 | grep 'epoch *1 of' >/dev/null; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "the demo did not learn anything within a minute"
    sleep 0.5
done
"$engine" stop -t 20 "$name" >/dev/null
status=$("$engine" inspect --format '{{.State.ExitCode}}' "$name")
[ "$status" != 137 ] || fail "the demo did not hear SIGTERM"
printf 'the demo runs with a read-only root, and ends on SIGTERM\n'

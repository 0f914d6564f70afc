#!/usr/bin/env bash
# Starts the exporter and an experiment, from any directory:
#
#   ./run.sh [--exit] [--setup] [--help] [experiment] [overrides]
#   ./run.sh [--exit] [--setup] monty [quick|full|parallel] [overrides]
#
#   --exit       stop when the experiment ends; without it the page stays until Ctrl-C
#   --setup      only make the environment (.venv, .venvs/monty) that the others need
#   experiment   one of those in conf/experiment; without it: q_learning
#   monty        a real Monty, which needs Python 3.11: quick takes some 20 seconds, full
#                pretrains and evaluates, parallel evaluates in processes of their own
#   overrides    for the experiment, as Hydra takes them: experiment.episodes=20
#
# The page is on port 8000, experiments connect to port 5555; EPISIGHT_WEB_PORT and
# EPISIGHT_INGEST_PORT change them, 0 takes a free one. What was recorded is kept in
# .episight, Monty's results in .episight/monty. The exit status is the experiment's.
# shellcheck disable=SC2317 # functions that only traps call
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/environment.sh
. "$ROOT/tools/environment.sh"
# shellcheck source=tools/monty.sh
. "$ROOT/tools/monty.sh"

usage() { sed -n '2,16s/^# \{0,1\}//p' "$ROOT/run.sh"; }

fail() { # STATUS SENTENCE...
    local status=$1
    shift
    say "run.sh: $*"
    exit "$status"
}

experiments() { # the names of all, one a line
    local path
    for path in "$ROOT"/conf/experiment/*.yaml; do
        if [ -e "$path" ]; then basename "$path" .yaml; fi
    done
    echo monty
}

# --- what was asked ------------------------------------------------------------------

stay=1
setup=
while [ $# -gt 0 ]; do
    case "$1" in
    -h | --help)
        usage
        printf '\nExperiments: %s\n' "$(experiments | tr '\n' ' ')"
        exit 0
        ;;
    --exit) stay= ;;
    --setup) setup=1 ;;
    --) ;;
    -*) fail 2 "there is no option $1; ./run.sh --help shows those there are." ;;
    *) break ;;
    esac
    shift
done

experiment=q_learning
case "${1:-}" in
"" | *=*) ;;
*)
    experiment=$1
    shift
    ;;
esac
mode= # Monty's, where it is Monty
if [ "$experiment" = monty ]; then
    mode=quick
    case "${1:-}" in
    quick | full | parallel)
        mode=$1
        shift
        ;;
    "" | *=* | [-+~]*) ;;
    *) fail 2 "there is no \"$1\" of monty. There are: quick full parallel" ;;
    esac
elif [ ! -f "$ROOT/conf/experiment/$experiment.yaml" ]; then
    fail 2 "there is no experiment \"$experiment\". There are: $(experiments | tr '\n' ' ')"
fi

for argument in "$@"; do
    case "$argument" in
    *=* | +* | ~*) ;;
    -*) fail 2 "options come first: ./run.sh $argument $experiment" ;;
    *) fail 2 "\"$argument\" is no override: one is name=value, as in seed=1" ;;
    esac
done

# --- the environment -----------------------------------------------------------------

venv=$ROOT/.venv
case "$(version_of "$venv/bin/python")" in
3.1[1-9]) python=$venv/bin/python ;;
*) # 3.11 first: then test.sh can use the same environment
    python=$(find_python 3.11 3.12 3.13 3.14 3.15) ||
        fail 3 "this needs Python 3.11 or newer with venv, and none was found." \
            "On Debian and Ubuntu: apt install python3 python3-venv"
    ;;
esac
ensure_environment "$venv" "$python" exporter,experiments ||
    fail 3 "$venv could not be made; what pip said is above."
python=$venv/bin/python
ready=$venv
if [ -n "$mode" ]; then
    monty=$ROOT/.venvs/monty
    monty_python=$(python_to_use 3.11 "$monty") ||
        fail 3 "Monty needs Python 3.11 with venv, and none was found." \
            "On Debian 12: apt install python3 python3-venv; with pyenv: pyenv install 3.11"
    ensure_monty "$monty" "$monty_python" ||
        fail 3 "$monty could not be made ready; why is said above."
    ready=$monty
fi
if [ -n "$setup" ]; then
    say "$ready is ready."
    exit 0
fi

# --- the exporter --------------------------------------------------------------------

journal=${EPISIGHT_JOURNAL_PATH:-$ROOT/.episight/journal.sqlite}
data=$(dirname "$journal")
log=$data/exporter.log
mkdir -p "$data"
address=$(mktemp "${TMPDIR:-/tmp}/episight.XXXXXX")
rm -f "$address" # it is there when the exporter is ready

exporter_pid=
experiment_pid=

# Both have a process group of their own (set -m), so that Ctrl-C reaches this script
# alone: it then ends the experiment first, and the exporter when that has told its end.
end_group() { # PID SECONDS: TERM, and KILL after so many seconds
    local tries=$(($2 * 10))
    kill -TERM -- "-$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null && [ "$tries" -gt 0 ]; do
        sleep 0.1
        tries=$((tries - 1))
    done
    kill -KILL -- "-$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

stop_all() {
    trap '' INT TERM HUP
    if [ -n "$experiment_pid" ]; then end_group "$experiment_pid" 10; fi
    if [ -n "$exporter_pid" ]; then end_group "$exporter_pid" 20; fi
    rm -f "$address"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

cd "$data"
set -m
EPISIGHT_JOURNAL_PATH=$journal EPISIGHT_INGEST_ADDRESS_FILE=$address \
    "$python" -m exporter </dev/null >"$log" 2>&1 &
exporter_pid=$!
set +m # else what is only stopped (kill -STOP) would be taken for ended

tries=600
while [ ! -e "$address" ]; do
    if ! kill -0 "$exporter_pid" 2>/dev/null; then
        exporter_pid=
        fail 4 "the exporter did not start: $(tail -n 1 "$log")" \
            "(EPISIGHT_WEB_PORT and EPISIGHT_INGEST_PORT change its ports; all it said:" \
            "$log)"
    elif [ "$tries" -eq 0 ]; then
        fail 4 "the exporter was not ready within a minute; what it said: $log"
    fi
    sleep 0.1
    tries=$((tries - 1))
done
read_address() { # KEY: its value in the exporter's address file
    "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' \
        "$address" "$1"
}
# With the token, which makes the browser one that may give commands.
token=$(EPISIGHT_JOURNAL_PATH=$journal "$python" -m experiment_hooks.cli token) ||
    fail 4 "the exporter has no token; what it said: $log"
page="$(read_address web)/?token=$token"
endpoint=$(read_address ingest)
say "The page:         $page"
say "The exporter log: $log"

# --- the experiment ------------------------------------------------------------------

cd "$ROOT"
export EPISIGHT_ENDPOINT=$endpoint
set -m
if [ -n "$mode" ]; then # it says so much that the page's address would be out of sight
    output=$data/monty/output.log
    mkdir -p "$data/monty"
    say "What Monty says:  $output"
    "$ROOT/experiments/monty/start.sh" "$monty/bin/python" "$data/monty" "$mode" \
        +episight=monty "$@" </dev/null >"$output" 2>&1 &
else
    "$python" -m experiments experiment="$experiment" "$@" </dev/null &
fi
experiment_pid=$!
set +m

# Ctrl-C and TERM end the experiment as Ctrl-C would, and then the script.
interrupted=
interrupt() { # STATUS
    interrupted=$1
    stay=
    kill -INT -- "-$experiment_pid" 2>/dev/null || true
}
trap 'interrupt 130' INT
trap 'interrupt 143' TERM
trap 'interrupt 129' HUP

status=0
wait "$experiment_pid" || status=$?
if [ -n "$interrupted" ]; then # the trap ended that wait: now for the experiment itself
    tries=100
    while kill -0 "$experiment_pid" 2>/dev/null && [ "$tries" -gt 0 ]; do
        sleep 0.1
        tries=$((tries - 1))
    done
    if kill -0 "$experiment_pid" 2>/dev/null; then
        status=$interrupted
    else
        ended=0
        wait "$experiment_pid" || ended=$?
        if [ "$ended" -ne 127 ]; then status=$ended; fi # 127: the first wait had it
        experiment_pid=
    fi
    exit "$status"
fi
experiment_pid=
if [ -n "$mode" ] && [ "$status" -ne 0 ]; then tail -n 20 "$output" >&2; fi

if ! kill -0 "$exporter_pid" 2>/dev/null; then
    stay=
    say "run.sh: the exporter ended meanwhile; what it said: $log"
fi

if [ -n "$stay" ]; then
    say "The experiment ended with status $status. The page stays until Ctrl-C: $page"
    trap 'exit "$status"' INT TERM HUP
    wait "$exporter_pid" || true
    say "run.sh: the exporter ended by itself; what it said: $log"
fi
exit "$status"

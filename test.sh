#!/usr/bin/env bash
# Runs all tests and checks, from any directory, and makes what they need:
#
#   ./test.sh                      everything, on each Python that is supported
#   ./test.sh --fast [ARGUMENTS]   only pytest, on Python 3.11; the rest goes to pytest
#
# The hooks are tested on Python 3.8, everything on 3.11 and on the newest there is. As
# root on a Debian it installs the real parts that the tests use; elsewhere, tests whose
# part is missing are skipped and say so. With CI set, what is missing is a failure, and
# what brings PyTorch is tested too: Monty, and the Gymnasium wrapper with
# Stable-Baselines3.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tools/environment.sh
. "$ROOT/tools/environment.sh"
# shellcheck source=tools/monty.sh
. "$ROOT/tools/monty.sh"
cd "$ROOT"

usage() { sed -n '2,11s/^# \{0,1\}//p' "$ROOT/test.sh"; }

fast=
case "${1:-}" in
-h | --help)
    usage
    exit 0
    ;;
--fast)
    fast=1
    shift
    ;;
"") ;;
*)
    usage >&2
    exit 2
    ;;
esac

# --- what the tests need -------------------------------------------------------------

# The real parts, each with the Debian package that brings it.
real_parts="prometheus=prometheus promtool=prometheus"
real_parts="$real_parts chromium-headless-shell=chromium-headless-shell"
real_parts="$real_parts nginx=nginx-light openssl=openssl"
real_parts="$real_parts shellcheck=shellcheck ip=iproute2 nft=nftables"
real_parts="$real_parts amtool=prometheus-alertmanager"

install_real_parts() {
    local part missing=""
    for part in $real_parts; do
        command -v "${part%%=*}" >/dev/null || missing="$missing ${part#*=}"
    done
    # Without a font a browser may draw no text.
    if command -v apt-get >/dev/null && [ ! -d /usr/share/fonts/truetype/dejavu ]; then
        missing="$missing fonts-dejavu-core"
    fi
    # Debian's own Python makes no environments without this one.
    if ! find_python 3.11 >/dev/null && [ -x /usr/bin/python3.11 ]; then
        missing="$missing python3-venv"
    fi
    if [ -z "$missing" ]; then
        return 0
    elif ! can_apt_install; then
        say "Not installed, so the tests that need them are skipped:$missing"
        return 0
    fi
    # shellcheck disable=SC2086 # a list of words
    apt_install $missing || say "apt could not install all of:$missing"
}

# --- parts and their summary ---------------------------------------------------------

summary=""
failed=0

note() { # RESULT NAME [DETAIL]
    summary="$summary$(printf '%-8s %-18s %s' "$1" "$2" "${3:-}")"$'\n'
    if [ "$1" = FAILED ]; then failed=1; fi
}

part() { # NAME COMMAND...: runs it, whatever came before, and remembers how it went
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then note ok "$name"; else note FAILED "$name" "$*"; fi
}

missing_part() { # NAME REASON: a failure in CI, where everything has to be there
    say "$1: $2"
    if [ -n "${CI:-}" ]; then note FAILED "$1" "$2"; else note skipped "$1" "$2"; fi
}

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

run_tests() { # VERSION ENVIRONMENT [ARGUMENTS]: pytest's output, and its status
    local python="$2/bin/python" color=auto
    shift 2
    if [ -t 1 ]; then color=yes; fi
    "$python" -m pytest --color="$color" "$@" 2>&1
}

tests() { # VERSION ENVIRONMENT [ARGUMENTS]: runs them, and remembers how it went
    local name="tests on $1" result=ok
    printf '\n== %s\n' "$name"
    run_tests "$@" | tee "$logs/$1" || result=FAILED
    note "$result" "$name" "$(grep -E ' in [0-9.]+s' "$logs/$1" | tail -n 1)"
}

tests_beside() { # VERSION ENVIRONMENT: starts them; they mostly wait, and so do others
    run_tests "$@" >"$logs/$1" &
    beside=$!
}

tests_joined() { # VERSION: waits for them, shows what they said, remembers
    local name="tests on $1" result=ok
    wait "$beside" || result=FAILED
    printf '\n== %s (ran beside the others)\n' "$name"
    cat "$logs/$1"
    note "$result" "$name" "$(grep -E ' in [0-9.]+s' "$logs/$1" | tail -n 1)"
}

prepare() { # VERSION ENVIRONMENT EXTRAS: makes it, or says why not
    local python
    if ! python=$(python_to_use "$1" "$2"); then
        missing_part "tests on $1" "no Python $1 with venv was found"
        return 1
    elif ! ensure_environment "$2" "$python" "$3"; then
        note FAILED "tests on $1" "$2 could not be made"
        return 1
    fi
    export "TEST_PYTHON_${1//./_}=$2/bin/python"
}

prepare_monty() { # ENVIRONMENT: makes it, or says why not
    local python
    if ! python=$(python_to_use 3.11 "$1"); then
        missing_part "tests on Monty" "no Python 3.11 with venv was found"
        return 1
    elif ! ensure_monty "$1" "$python"; then
        note FAILED "tests on Monty" "$1 could not be made ready"
        return 1
    fi
    export TEST_PYTHON_MONTY="$1/bin/python"
}

# --- all of it -----------------------------------------------------------------------

main=.venv
old=.venvs/py38
# run.sh may have made .venv, of another version where that was all there is.
case "$(version_of "$main/bin/python")" in "" | 3.11) ;; *) main=.venvs/py311 ;; esac
everything=exporter,experiments,test
sb3=exporter,test,sb3

install_real_parts
have_main='' have_old='' have_newest='' newest=''
newest_python=$(find_python 3.15 3.14 3.13 3.12 || true)
if [ -n "$newest_python" ]; then
    newest=$(version_of "$newest_python")
    newest_environment=.venvs/py${newest/./}
fi
if [ -z "$fast" ]; then # side by side; those that could not be made are tried again below
    { prepare 3.8 "$ROOT/$old" test || true; } >"$logs/3.8" 2>&1 &
    if [ -n "$newest" ]; then
        { prepare "$newest" "$ROOT/$newest_environment" "$everything" || true; } \
            >"$logs/$newest" 2>&1 &
    fi
fi
if prepare 3.11 "$ROOT/$main" "$everything,dev,dashboards"; then have_main=1; fi
if [ -z "$fast" ]; then
    wait
    if prepare 3.8 "$ROOT/$old" test; then have_old=1; fi
    if [ -z "$newest" ]; then
        missing_part "tests on newest" "no Python newer than 3.11 with venv was found"
    elif prepare "$newest" "$ROOT/$newest_environment" "$everything"; then
        have_newest=1
        export TEST_PYTHON_NEWEST="$ROOT/$newest_environment/bin/python"
    fi
fi

if [ -n "$fast" ]; then
    if [ -n "$have_main" ]; then tests 3.11 "$main" "$@"; fi
else
    if [ -n "$have_old" ]; then tests_beside 3.8 "$old"; fi
    if [ -n "$have_main" ]; then
        part "ruff check" "$main/bin/ruff" check
        part "ruff format" "$main/bin/ruff" format --check
        part "types" "$main/bin/mypy"
        part "layers" "$main/bin/lint-imports"
    fi
    if command -v shellcheck >/dev/null; then
        part "shellcheck" shellcheck -x ./*.sh tools/*.sh experiments/*/*.sh .ci/run
    else
        missing_part "shellcheck" "it is not installed"
    fi
    # Of the last two environments nothing is needed yet, and they take minutes.
    if [ -n "${CI:-}" ]; then
        { prepare_monty "$ROOT/.venvs/monty"; prepare 3.11 "$ROOT/.venvs/sb3" "$sb3"; } \
            >"$logs/later" 2>&1 &
        later=$!
    fi
    by_file=(--dist loadfile --no-loadscope-reorder) # in the order of conftest.py
    if [ -n "$have_newest" ]; then
        tests "$newest" "$newest_environment" -n 3 "${by_file[@]}"
    fi
    if [ -n "$have_old" ]; then tests_joined 3.8; fi
    # In CI alone: it brings PyTorch, a gigabyte that nobody asked for (CONTRIBUTING.md).
    if [ -n "${CI:-}" ]; then
        wait "$later" || cat "$logs/later" >&2
        {
            prepare 3.11 "$ROOT/.venvs/sb3" "$sb3" &&
                run_tests 3.11 .venvs/sb3 tests/test_{gymnasium,docs}.py -k stable
        } >"$logs/3.11 with SB3" 2>&1 &
        beside=$!
    fi
    # A long hammering is for the oldest and the newest Python, and so are the hooks' tests.
    if [ -n "$have_main" ]; then
        EPISIGHT_HAMMER_SECONDS='' TEST_THE_HOOKS_ELSEWHERE=${have_old:+$have_newest} \
            tests 3.11 "$main" -n 3 "${by_file[@]}" \
            --ignore tests/monty
    fi
    if [ -n "${CI:-}" ]; then tests_joined "3.11 with SB3"; fi
    # Its own environment is made in CI alone; elsewhere ./run.sh monty may have made it.
    if [ -n "$have_main" ] && { [ -z "${CI:-}" ] || prepare_monty "$ROOT/.venvs/monty"; }
    then
        tests Monty "$main" -n 2 "${by_file[@]}" tests/monty
    fi
fi

printf '\n== summary\n%s' "$summary"
exit "$failed"

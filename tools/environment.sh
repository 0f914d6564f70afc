# shellcheck shell=bash
# Finds Pythons and keeps virtual environments up to date; sourced by run.sh and test.sh.
#
# Written for bash 3.2 (macOS) and later. ROOT must be set: the checkout.

say() { printf '%s\n' "$*" >&2; }

# version_of PYTHON: "3.11", or nothing where it is none that works.
version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true
}

# makes_environments PYTHON: whether it is a release and has all that venv needs.
makes_environments() {
    "$1" -c 'import ensurepip, sys, venv
sys.exit(sys.version_info.releaselevel != "final")' 2>/dev/null
}

# find_python VERSION...: the first Python of the first of these versions that works.
find_python() {
    local version candidate
    for version in "$@"; do
        for candidate in \
            "$(command -v "python$version" || true)" \
            "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python \
            "$(command -v python3 || true)"; do
            # A command may be there and yet not work: pyenv's are like that.
            if [ -n "$candidate" ] && [ "$(version_of "$candidate")" = "$version" ] &&
                makes_environments "$candidate"; then
                printf '%s\n' "$candidate"
                return 0
            fi
        done
    done
    return 1
}

# python_to_use VERSION ENVIRONMENT: the environment's own Python where it has that version,
# else one that can make it.
python_to_use() {
    if [ "$(version_of "$2/bin/python")" = "$1" ]; then
        printf '%s\n' "$2/bin/python"
    else
        find_python "$1"
    fi
}

# can_apt_install: whether this is root on a Debian.
can_apt_install() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

# apt_install PACKAGE...: those that there are; 1 where that is not all of them.
apt_install() {
    local package status=0
    can_apt_install || return 1
    say "Installing: $*"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # RUNLEVEL: start no services
    apt-get -qq update >&2 || return 1
    for package in "$@"; do # apart, as one that is not there would keep the others away
        apt-get -qq install -y --no-install-recommends "$package" >&2 || status=1
    done
    return "$status"
}

# What an environment was made for: this checkout, at this place, as it is described now.
_fingerprint() {
    printf '%s ' "$ROOT"
    cat "$ROOT/pyproject.toml" "$ROOT/tools/environment.sh" | cksum
}

# _is_current ENVIRONMENT EXTRAS: whether it has them all, installed from this checkout.
_is_current() {
    local stamp="$1/.episight" extra
    [ -x "$1/bin/python" ] && [ -f "$stamp" ] || return 1
    [ "$(head -n 1 "$stamp")" = "$(_fingerprint)" ] || return 1
    for extra in ${2//,/ }; do
        grep -qx "$extra" "$stamp" || return 1
    done
}

_pip() { # ENVIRONMENT ARGUMENTS...: installs
    local environment=$1
    shift
    "$environment/bin/python" -m pip install -qq --disable-pip-version-check "$@"
}

# ensure_environment ENVIRONMENT PYTHON EXTRAS: makes it, or brings it up to date, where
# needed; what is in it already stays. Extras are separated by commas, "" is none: the
# hooks alone.
ensure_environment() {
    local environment=$1 python=$2 extras=$3 version
    if _is_current "$environment" "$extras"; then
        return 0
    fi
    say "Making $environment ready${extras:+ ($extras)}; this takes a minute the first time."
    version=$(version_of "$python")
    if [ "$(version_of "$environment/bin/python")" != "$version" ]; then
        "$python" -m venv --clear "$environment" || return 1
    fi
    rm -f "$environment/.episight"
    _pip "$environment" --editable "$ROOT${extras:+[$extras]}" || return 1
    { _fingerprint && tr ',' '\n' <<<"$extras"; } >"$environment/.episight"
}

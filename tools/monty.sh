# shellcheck shell=bash
# A real Monty in an environment of its own; sourced by run.sh and test.sh, after
# environment.sh.

MONTY=tbp.monty==0.55.0

# ensure_monty ENVIRONMENT PYTHON: makes it, or brings it up to date, with the hooks of this
# checkout in it; says what is missing. Monty is of Python 3.11 here.
ensure_monty() {
    ensure_environment "$1" "$2" "" && _ensure_packages "$1" && _ensure_egl "$1"
}

_ensure_packages() { # ENVIRONMENT
    local stamp="$1/.monty" wanted
    wanted="$MONTY $(cksum <"$ROOT/tools/monty.txt")"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        return 0
    fi
    say "Installing $MONTY, with PyTorch and MuJoCo; this takes some minutes and 2 GB."
    rm -f "$stamp"
    _pip "$1" --requirement "$ROOT/tools/monty.txt" || return 1
    # It asks for torch-scatter and torch-sparse too, which are compiled for a quarter of
    # an hour, and imports neither.
    _pip "$1" --no-deps "$MONTY" || return 1
    printf '%s\n' "$wanted" >"$stamp"
}

_ensure_egl() { # ENVIRONMENT
    if _draws "$1" || { apt_install libegl1 libgl1-mesa-dri && _draws "$1"; }; then
        return 0
    fi
    say "Monty's images are drawn by EGL, which does not work here." \
        "On Debian and Ubuntu: apt install libegl1 libgl1-mesa-dri"
    return 1
}

_draws() { # ENVIRONMENT: whether MuJoCo can draw there, without a screen
    MUJOCO_GL=egl "$1/bin/python" -c 'import mujoco; mujoco.GLContext(8, 8)' 2>/dev/null
}

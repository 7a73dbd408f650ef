# Sourced by the other scripts: `root`, and `ready run|dev`, which makes $root/.venv what pyproject.toml asks for.
#
# The stamp in the environment says what it was made from. A changed pyproject.toml, a moved checkout or a Python
# that has gone makes it stale; an environment with the development tools serves for running too.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
python="$root/.venv/bin/python"

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3.14 python3 python; do
        if [ -n "$candidate" ] && is_recent "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    echo "car-trio needs Python 3.11 or newer, and none is on PATH (looked for python3.11 to python3.14, python3," \
        "python). Install one, or name it: PYTHON=/path/to/python $0" >&2
    return 1
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

quietly() {
    local log status
    log=$(mktemp)
    "$@" >"$log" 2>&1 && status=0 || status=$?
    [ "$status" -eq 0 ] || { echo "failed: $*" && cat "$log"; } >&2
    rm -f "$log"
    return "$status"
}

ready() {
    local made_from stamp="$root/.venv/made-from" found
    made_from="$root $(cksum <"$root/pyproject.toml")"
    if [ -x "$python" ] && is_recent "$python"; then
        for found in dev "$1"; do
            [ "$(cat "$stamp-$found" 2>/dev/null)" != "$made_from" ] || return 0
        done
    else
        found=$(find_python) || return 1
        echo "making $root/.venv with $("$found" --version)" >&2
        rm -rf "$root/.venv"
        quietly "$found" -m venv "$root/.venv" || {
            rm -rf "$root/.venv" # there may be a python in it, and no pip
            echo "Python could not make a virtual environment; on Debian and Ubuntu, install python3-venv" >&2
            return 1
        }
    fi
    echo "installing what pyproject.toml asks for; this takes a minute, once" >&2
    install "$1" || return 1
    rm -f "$stamp"-*
    echo "$made_from" >"$stamp-$1"
}

install() {
    local what="$root"
    [ "$1" = run ] || what="$root[$1]"
    quietly "$python" -m pip install --quiet --disable-pip-version-check --no-input --editable "$what"
}

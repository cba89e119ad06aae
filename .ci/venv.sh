# Shared by the scripts beside it: a clean environment and the checkout's own .venv.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# Settings of the caller's shell must not change what the checks see.
for name in $(compgen -e); do
    case $name in
        ORTEGE_* | PYTHON* | PYTEST_* | COVERAGE_* | HYPOTHESIS_* | MYPY* | RUFF_* | \
            VIRTUAL_ENV | CDPATH) unset "$name" ;;
    esac
done
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '\n=== %s\n' "$*"; }

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; }

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } \
        > /tmp/ortege-watch-apt.$$ 2>&1 && { rm -f /tmp/ortege-watch-apt.$$; return 0; }
    tail -n 20 /tmp/ortege-watch-apt.$$ >&2
    rm -f /tmp/ortege-watch-apt.$$
    return 1
}

find_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
            > /dev/null 2>&1 && { echo "$candidate"; return 0; }
    done
    echo "Python 3.11 or newer is needed, and no such python3 is on the PATH." >&2
    return 1
}

# new_venv DIRECTORY: make a virtual environment there, with pip in it.
new_venv() {
    local python
    python=$(find_python) || return 1
    rm -rf "$1"
    "$python" -m venv "$1" > /dev/null 2>&1 && return 0
    # Debian and Ubuntu keep venv's inner part in a package of its own.
    local package
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if can_install && { apt_install "$package" || apt_install python3-venv; }; then
        rm -rf "$1"
        "$python" -m venv "$1" && return 0
    fi
    echo "'$python -m venv' does not work here; install it (Debian: $package)." >&2
    return 1
}

# pip_install DIRECTORY ARGUMENTS...: quietly, errors shown; mind its warnings.
pip_install() {
    local venv=$1
    shift
    "$venv/bin/python" -m pip install --quiet --quiet "$@"
}

# project_venv: make sure that .venv is there and works; keep what it has.
project_venv() {
    .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' \
        > /dev/null 2>&1 || new_venv .venv
}

# install_runtime DIRECTORY NAMES...: the package's own requirements in their pinned
# versions, and of the tools only those that are named.
install_runtime() {
    local venv=$1 names
    shift
    names=$("$venv/bin/python" - << 'PYTHON'
import re, tomllib
with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for line in [*project["dependencies"], *project["optional-dependencies"]["testing"]]:
    print(re.match(r"[\w.-]+", line).group())
PYTHON
    ) || return 1
    # Hashes are all or nothing to pip, and its constraints are no closed list.
    sed -n 's/ *\\$//; /==/p' .ci/requirements.txt > "$venv/constraints.txt"
    # shellcheck disable=SC2086  # one word each
    pip_install "$venv" --constraint "$venv/constraints.txt" "$@" $names
}

# ready WHAT: whether .venv was set up for WHAT with the requirements of today.
ready() { [ "$(cat ".venv/ready-for-$1" 2> /dev/null)" = "$(requirements_stamp)" ]; }

mark_ready() { requirements_stamp > ".venv/ready-for-$1"; }

requirements_stamp() { cat pyproject.toml .ci/requirements.txt .ci/demo | cksum; }

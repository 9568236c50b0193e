#!/bin/sh
# Makes .venv from the locked dependencies, or completes it. Run it in the root of the checkout.
# Usage: PYTHON=python3 sh dev/environment.sh run|dev
#
# An environment is made anew if an earlier set-up did not finish, if the checkout was moved or copied (the scripts in .venv/bin name
# the folder that they were made in), or if its Python is gone. The stamps are .run and .dev; .unfinished exists while pip works.
set -eu

venv=.venv
root=$(pwd -P)
python=${PYTHON:-python3}
trap 'exit 130' INT TERM HUP

fail() {
    echo "setup: $1" >&2
    exit 1
}

# Why the environment cannot be used; nothing if it can.
trouble() {
    if [ ! -e $venv/.run ] || [ -e $venv/.unfinished ]; then
        echo "an earlier set-up did not finish"
    elif ! grep -qsF "$root/$venv/bin/" $venv/bin/posthaste; then
        former=$(sed -n "s|^.*[! \"']\(/.*\)/$venv/bin/python.*|\1|p" $venv/bin/posthaste | head -n 1)
        echo "it belongs to ${former:-another folder}, and this folder is $root"
    elif ! $venv/bin/python -c 'import pip, psutil' 2>/dev/null; then
        echo "its Python is gone or has changed"
    fi
}

make_anew() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Posthaste needs Python >= 3.11; name one with: make PYTHON=/path/to/python3.11 ${GOALS:-}"
    "$python" -m venv --clear $venv ||
        fail "there is no venv for $python; on Debian or Ubuntu, run: apt-get install python3-venv"
}

# Ctrl-C or a kill leaves .unfinished behind. A failure of pip itself, such as a missing network, does not.
pip_install() {
    : >$venv/.unfinished
    $venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" || {
        code=$?
        rm -f $venv/.unfinished
        exit $code
    }
    rm $venv/.unfinished
}

# One make at a time; the kernel releases the lock when the last process of this one ends.
exec 9<requirements.lock
flock --nonblock 9 || {
    echo "setup: waiting for the set-up of another make"
    flock 9
}

why=$(trouble)
if [ -n "$why" ]; then
    if [ -d $venv ]; then echo "setup: making $venv anew: $why"; fi
    make_anew
fi
if [ ! -e $venv/.run ] || [ requirements.lock -nt $venv/.run ] || [ pyproject.toml -nt $venv/.run ]; then
    echo "setup: installing the locked dependencies into $venv"
    pip_install --require-hashes -r requirements.lock
    pip_install --no-deps --no-build-isolation --editable .
    touch $venv/.run
fi
if [ "$1" = dev ] && { [ ! -e $venv/.dev ] || [ $venv/.run -nt $venv/.dev ] || [ requirements-dev.lock -nt $venv/.dev ]; }; then
    echo "setup: installing the test and check tools into $venv"
    pip_install --require-hashes -r requirements-dev.lock
    touch $venv/.dev
fi

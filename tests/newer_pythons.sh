#!/bin/sh
# Pythons that are newer than this machine's Debian, in a folder of their own, and the tests there.
#
#     tests/newer_pythons.sh [OPTIONS] install          make the folder; nothing to do if it is there
#     tests/newer_pythons.sh [OPTIONS] tox [ARGUMENT...]  tox, with what the folder has
#     tests/newer_pythons.sh [OPTIONS] run COMMAND...   anything, in this repository
#
#     --folder FOLDER   /opt/dss_anyio-pythons by default; about 1 GB
#     --suite SUITE     of Debian, when the folder is made: unstable by default, the newest there is
#
# "tox" and "run" make the folder if it is missing. It is a Debian of its own, into which they
# change their root: nothing of it is installed on this machine, and removing it is "rm -r".
#
# Needs: root, and Linux with chroot, mount and unshare; debootstrap ("apt-get install debootstrap");
# a Debian archive that this machine's apt has been told of, for that is where it comes from; and
# what pip is set up with here, for the tests' libraries. Two minutes; then ten for the first tests
# on the newest CPython, for which some of those libraries have to be compiled.
set -eu

folder=/opt/dss_anyio-pythons
suite=unstable
# With what compiles those of the tests' libraries that have no wheels for the newest yet.
packages="python3.14-venv python3.15-venv pypy3-venv gcc g++ make python3.14-dev python3.15-dev libffi-dev"
# Some tests wake a real Lua program, start a broker, open a window.
for_tests="lua5.1 lua-socket mosquitto xvfb xauth libglib2.0-0t64 libegl1"
repository=$(cd "$(dirname "$0")/.." && pwd)

complain() {
    echo "$0: $1" >&2
    exit 1
}

usage() {
    sed -n 's/^# \{0,1\}//p' "$0" | sed -n 3,9p >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    --folder | --suite)
        [ $# -ge 2 ] || usage
        [ "$1" = --suite ] && suite=$2 || folder=$2
        shift 2
        ;;
    *) break ;;
    esac
done
case ${1:-} in
install) [ $# -eq 1 ] || usage ;;
tox) ;;
run) [ $# -ge 2 ] || usage ;;
*) usage ;;
esac

[ "$(id -u)" = 0 ] || complain "needs to be root, to change the root folder of what it runs"
for command in debootstrap unshare mount chroot; do
    command -v $command >/dev/null || complain "needs $command; apt-get install debootstrap mount"
done
case $folder in
/*) ;;
*) complain "--folder needs a path from the root, not $folder" ;;
esac
case $folder/ in
"$repository"/*) complain "$folder is inside the repository" ;;
esac

# All that is mounted is so in a namespace of this process and its children only. It is gone with
# the last of them, however they end, and "rm -r" never reaches through it.
if [ "${dss_namespace:-}" != "$$" ]; then
    export dss_namespace=$$
    exec unshare --mount --propagation private \
        "$0" --folder "$folder" --suite "$suite" "$@"
fi

# What the folder needs to reach the network as this machine does.
copy_in() {
    for each in "$@"; do
        if [ -e "$each" ]; then
            mkdir -p "$folder$(dirname "$each")"
            cp -rL "$each" "$folder$(dirname "$each")/"
        fi
    done
}

enter() {
    mkdir -p "$folder/dss_anyio"
    mount -t proc proc "$folder/proc"
    mount --rbind /dev "$folder/dev" # with /dev/pts and /dev/shm
    mount --bind "$repository" "$folder/dss_anyio"
}

within() {
    env --unset=PYTHONPATH --unset=VIRTUAL_ENV --chdir=/ HOME=/root LC_ALL=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive chroot "$folder" "$@"
}

if ! [ -e "$folder/ready" ]; then
    mirror=$("$repository/tests/debian_mirror.sh")
    if [ -n "$(ls -A "$folder" 2>/dev/null)" ]; then # an earlier run was cut short
        [ -e "$folder/made-by-newer_pythons" ] || complain "$folder is in use for something else"
        rm -rf --one-file-system "$folder"
    fi
    mkdir -p "$folder"
    touch "$folder/made-by-newer_pythons"
    echo "making $folder, of Debian's $suite ..." >&2
    debootstrap --variant=minbase "$suite" "$folder" "$mirror" >&2
    enter
    copy_in /etc/resolv.conf /etc/hosts /etc/apt/auth.conf.d
    apt-config dump Acquire >"$folder/etc/apt/apt.conf.d/90as-outside"
    within apt-get -qq update
    within apt-get -qq --yes --no-install-recommends install ca-certificates $packages $for_tests >&2
    # After ca-certificates, which makes a bundle of its own.
    copy_in /etc/ssl/certs/ca-certificates.crt "${SSL_CERT_FILE:-}" "${PIP_CERT:-}"
    copy_in /etc/pip.conf /etc/xdg/pip /root/.config/pip /root/.pip
    within python3.14 -m venv /opt/tox
    within /opt/tox/bin/python -m pip install --quiet 'tox>=4.25' >&2
    touch "$folder/ready"
else
    enter
fi

case $1 in
install)
    for python in python3.14 python3.15 pypy3; do
        within $python -c 'import sys; print(sys.implementation.name, sys.version.split()[0])'
    done
    ;;
tox)
    shift
    within sh -c 'cd /dss_anyio && exec /opt/tox/bin/tox run-parallel --parallel 2 --parallel-no-spinner --workdir /opt/tox/work "$@"' tox "$@"
    ;;
run)
    shift
    within sh -c 'cd /dss_anyio && exec "$@"' run "$@"
    ;;
esac

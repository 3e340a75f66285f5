#!/bin/sh
# Build a CPython without the GIL where none is installed: Debian's source package, as root.
#
#     tests/build_free_threaded.sh [FOLDER]    FOLDER/bin/python3.13t, /opt/python3.13t by default
#
# Five minutes on two cores. Does nothing if it is there already.
set -eu

prefix=${1:-/opt/python3.13t}
suite=trixie # the one that has CPython 3.13
if [ -x "$prefix/bin/python3.13t" ]; then
    exit 0
fi

apt-get update -qq
mirror=$("$(dirname "$0")/debian_mirror.sh")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
    >"$work/sources.list"
# A list of sources of its own, so that nothing of that suite is ever installed.
apt="apt-get -qq -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=-
    -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache"

apt-get install -qq -y gcc make xz-utils pkg-config libssl-dev zlib1g-dev libffi-dev libbz2-dev \
    liblzma-dev libsqlite3-dev >/dev/null
$apt update
cd "$work"
$apt source --download-only python3.13
tar xf python3.13_*.orig.tar.xz
cd [Pp]ython-3.13*
./configure --quiet --disable-gil --prefix="$prefix" >"$work/configure.log"
make --silent -j "$(nproc)" >"$work/make.log" 2>&1
make --silent install >"$work/install.log" 2>&1
"$prefix/bin/python3.13t" -c 'import sys; assert not sys._is_gil_enabled(); print(sys.version)'

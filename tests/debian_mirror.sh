#!/bin/sh
# Print the address of the Debian archive that this machine's apt uses: no other is asked.
set -eu

if ! command -v apt-get >/dev/null; then
    echo "$0: needs Debian's apt-get, or that of a system that is made of Debian" >&2
    exit 1
fi
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
    sed -n 's/^Debian //p' | head -n 1) # not Debian-Security: it has no whole suites
if [ -z "$mirror" ]; then
    echo "$0: apt knows no archive of Debian; run 'apt-get update' first" >&2
    exit 1
fi
echo "$mirror"

#!/bin/sh
# Prints an interpreter that moongate can run on: $PYTHON if given, else the oldest supported one on PATH,
# which is the one that the pins were made with.
set -eu

supported() {
    # A shim on PATH may name a version that is not there, so ask it rather than look for it.
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [ -n "${PYTHON:-}" ]; then
    supported "$PYTHON" && echo "$PYTHON" && exit 0
    echo "PYTHON=$PYTHON does not run, or is older than Python 3.11, which moongate needs." >&2
    exit 1
fi
for python in python3.11 python3.12 python3.13 python3.14 python3 python; do
    supported "$python" && echo "$python" && exit 0
done
echo "moongate needs Python 3.11 or newer, and none is on PATH. Install one, or name it: make test PYTHON=/path/to/python3.11" >&2
exit 1

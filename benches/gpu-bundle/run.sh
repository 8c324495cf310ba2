#!/bin/sh
# Tests and measures ferrowarp on this machine's GPU: see run.py beside this file.
#   run.sh [kernels] [golden] [sanitizer] [bench]      all four where none is named
#   OUT=folder                                         where the report goes; ./report where it is not set
set -eu
here=$(cd "$(dirname "$0")" && pwd)
command -v python3 >/dev/null || { echo "error: python3 is needed, any version from 3.8" >&2; exit 1; }
exec python3 "$here/run.py" "$@"

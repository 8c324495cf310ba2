#!/bin/sh
# Unpacks the corpora into the folders that cargo-fuzz reads, or packs them again: fuzz/corpus.sh unpack|pack
set -eu
cd "$(dirname "$0")/corpus"

for target in gguf_bytes gguf_mutated; do
    case ${1:-} in
        unpack) tar -xf "$target.tar" ;;
        # The same inputs give the same bytes.
        pack) tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=644 --format=ustar -cf "$target.tar" \
            $(find "$target" -type f | LC_ALL=C sort) ;;
        *) echo "usage: fuzz/corpus.sh unpack|pack" >&2 && exit 1 ;;
    esac
done

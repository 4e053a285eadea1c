#!/usr/bin/env bash
# Prints the change log's part about a version.
#
#   deploy/notes.sh vX.Y.Z
set -eu
version=${1#v}
cd "$(dirname "$0")/.."
notes=$(awk -v heading="## $version" '/^## /{ inside = index($0 " ", heading " ") == 1; next } inside' CHANGELOG.md)
if [ -z "$notes" ]; then
    echo "CHANGELOG.md has no part \"## $version\"" >&2
    exit 1
fi
echo "$notes"

#!/usr/bin/env bash
# Prints the Homebrew formula of a release.
#
#   deploy/homebrew/fill.sh OWNER/NAME FOLDER     FOLDER has the release's archives and SHA256SUMS
set -eu
repository=$1
sums=$2/SHA256SUMS
template=$(dirname "$0")/assay.rb.in
targets=$(sed -n 's/.*sha256 "@\(.*\)@".*/\1/p' "$template")
script="s|@REPOSITORY@|$repository|g"
for target in $targets; do
    line=$(grep -- "-$target\.tar\.gz$" "$sums") || { echo "$sums has no archive for $target" >&2; exit 1; }
    file=${line##* }
    version=${file#assay-}
    version=${version%-"$target".tar.gz}
    script="$script;s|@$target@|${line%% *}|"
done
sed "1d;$script;s|@VERSION@|$version|g" "$template"

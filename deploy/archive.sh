#!/usr/bin/env bash
# Packs the programs of target/release as a release archive, after `cargo xtask build`.
#
#   deploy/archive.sh TARGET FOLDER     leaves FOLDER/assay-VERSION-TARGET.tar.gz, or .zip for Windows
set -eu
target=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
name=assay-$version-$target
tag=${GITHUB_REF_NAME-}
if [ "${GITHUB_REF_TYPE-}" = tag ] && [ "$tag" != "v$version" ]; then
    echo "the tag is $tag, and Cargo.toml's version is $version" >&2
    exit 1
fi
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
mkdir "$staging/$name"
suffix=
case $target in *windows*) suffix=.exe ;; esac
cp "target/release/assay$suffix" "target/release/assay-bench$suffix" \
    README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT docs/limits.toml "$staging/$name"
cp -r wit "$staging/$name"
mkdir "$staging/$name/guests"
for guest in cascade client embedder hybrid longdoc policy standard; do
    cp "target/guests/components/$guest.wasm" "$staging/$name/guests"
done
cd "$staging"
case $target in
    *windows*) 7z a -bso0 "$folder/$name.zip" "$name" ;;
    *) tar -czf "$folder/$name.tar.gz" "$name" ;;
esac

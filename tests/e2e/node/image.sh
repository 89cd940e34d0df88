#!/usr/bin/env bash
# Makes an image of one program: image.sh ARCHIVE NAME PROGRAM: a docker archive of NAME, whose entry point is /bin/PROGRAM's name.
# One layer; the same program gives the same bytes.
set -euo pipefail
umask 022
archive=$1 name=$2 program=$3
entry=/bin/$(basename "$program")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/root"/{etc,tmp}
chmod 1777 "$folder/root/tmp"
echo "nonroot:x:65532:65532::/:/sbin/nologin" >"$folder/root/etc/passwd"
install -D -m 755 "$program" "$folder/root$entry"
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$1" -cf "$2" "${@:3}"; }
pack "$folder/root" "$folder/layer.tar" .
sum=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
case $(uname -m) in x86_64) machine=amd64 ;; aarch64) machine=arm64 ;; *) machine=$(uname -m) ;; esac
cat >"$folder/config.json" <<JSON
{"architecture": "$machine", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:$sum"]},
 "config": {"User": "65532", "Entrypoint": ["$entry"], "Env": ["PATH=/bin"], "WorkingDir": "/"}}
JSON
echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$name\"], \"Layers\": [\"layer.tar\"]}]" >"$folder/manifest.json"
pack "$folder" "$archive.new" manifest.json config.json layer.tar
mv "$archive.new" "$archive"

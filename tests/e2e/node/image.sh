#!/usr/bin/env bash
# Makes an image of one program: image.sh ARCHIVE NAME PROGRAM [FROM TO]...: a docker archive of NAME, whose entry point is
# /bin/PROGRAM's name. Each FROM, a file or folder, becomes TO; the libraries that executables are linked with come along.
# One layer; the same files give the same bytes.
set -euo pipefail
umask 022
archive=$1 name=$2 program=$3
shift 3
entry=/bin/$(basename "$program")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/root"/{etc,tmp}
chmod 1777 "$folder/root/tmp"
echo "nonroot:x:65532:65532::/:/sbin/nologin" >"$folder/root/etc/passwd"
install -D -m 755 "$program" "$folder/root$entry"
while [ $# -gt 0 ]; do
  mkdir -p "$folder/root$(dirname "$2")"
  cp -RT "$1" "$folder/root$2"
  shift 2
done
# ldd says nothing to the point of a static program, or of a script.
find "$folder/root" -type f -perm -100 -exec sh -c 'for file; do ldd "$file"; done; true' sh {} + 2>/dev/null \
  | sed -nE 's|.*[[:blank:]](/[^ ]+) \(0x.*|\1|p' | sort -u | xargs -r cp -L --parents -t "$folder/root"
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

#!/usr/bin/env bash
# Runs fuzz targets: `fuzz/run.sh SECONDS [TARGET…]`, each for that long, all of them if none is named. Needs only stable Rust and a
# C++ compiler: coverage is put in by a pass of LLVM that every rustc has. What a target crashed on is kept in fuzz/crashes/TARGET/;
# `fuzz/run.sh 0 TARGET FILE` runs one such input again.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?write how many seconds each target may take, for instance: fuzz/run.sh 60}
shift
all=(sora orion mediasoup exposition manifests negotiation duration web_config blackbox certificate grpc_health dns icmp http_answer tcp_dialogue stun websocket_handshake oauth2_answer)
[[ $# -gt 0 ]] && targets=("$1") || targets=("${all[@]}")
[[ $# -gt 1 && $seconds != 0 ]] && targets=("$@")

host=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:+$CARGO_TARGET_DIR/fuzz}
[[ -n $CARGO_TARGET_DIR ]] || export CARGO_TARGET_DIR=$PWD/target
flags=(
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
)
# With a --target the flags are not for build scripts and macros, which run without libFuzzer.
# The parsers' dependencies are those of the program.
cp ../Cargo.lock Cargo.lock
RUSTFLAGS="${flags[*]}" cargo build --release --target "$host"
bin=$CARGO_TARGET_DIR/$host/release

if [[ $seconds = 0 && $# -gt 1 ]]; then
  exec "$bin/$1" "${@:2}"
fi

fixtures=../tests/fixtures
between=$'\n===\n'

# join SWITCHES FILE…: one input, the answers of a poll after each other
join() {
  local first=1 file
  printf "$1"
  for file in "${@:2}"; do
    [[ $first ]] || printf '%s' "$between"
    first=
    case $file in
      *.http) sed '1,/^\r\{0,1\}$/d' "$file" ;; # without the header
      *) [[ ! -e $file ]] || cat "$file" ;;
    esac
  done
}

# plant TARGET: the fixtures of the tests are where fuzzing begins
plant() {
  local target=$1 into=corpus/$1 folder file name
  mkdir -p "$into"
  if [[ -d seeds/$target ]]; then cp seeds/"$target"/* "$into"/; fi
  case $target in
    sora)
      for folder in "$fixtures"/sora/*/; do
        join '\0' "$folder"/{GetStatsReport,GetLicense,ListClusterNodes,GetMode}.json > "$into/seed-$(basename "$folder")"
      done
      ;;
    orion)
      for folder in "$fixtures"/orion/*/; do
        local answers=()
        for name in admin_metrics statistics cache_statistics version; do
          file=$folder/$name.http
          [[ -e $file ]] || file=$folder/$name.json
          answers+=("$file")
        done
        join '\0' "${answers[@]}" > "$into/seed-$(basename "$folder")"
        join '\0' "${answers[@]}" "${answers[@]}" > "$into/seed-twice-$(basename "$folder")"
      done
      ;;
    mediasoup)
      for file in "$fixtures"/mediasoup/answers/*.json; do join '\0\0' "$file" > "$into/seed-$(basename "$file")"; done
      for file in "$fixtures"/mediasoup/answers/*.txt; do join '\1\0' "$file" > "$into/seed-$(basename "$file")"; done
      join '\0\0' "$fixtures"/mediasoup/answers/closing-{1,2,3,4}.json > "$into/seed-closing"
      ;;
    exposition)
      for file in "$fixtures"/mediasoup/answers/*.txt "$fixtures"/*/*/*.metrics "$fixtures"/prometheus/*; do
        cp "$file" "$into/seed-$(echo "${file#"$fixtures"/}" | tr / -)"
      done
      ;;
    blackbox)
      # each module on its own, with a job that asks for it: short inputs are tried faster
      awk -v into="$into/seed-" -v job="$(cat seeds/blackbox/job)" '
        function finish() { if (name) { own = job; gsub("web_plain", name, own); print own > (into name) } }
        /^  [a-z0-9_]+:$/ { finish(); name = substr($1, 1, length($1) - 1); print "modules:" > (into name) }
        name { print > (into name) }
        END { finish() }' "$fixtures/convert/blackbox.yml"
      join '' "$fixtures"/convert/{blackbox,prometheus,objects}.yml "$fixtures/convert/values.yaml" > "$into/seed-all"
      ;;
    dns)
      # each record as the answer of a reply without a question, which one with a response code may be
      local wire text number=0
      while read -r wire text; do
        number=$((number + 1))
        printf "$(sed 's/../\\x&/g' <<< "000180030000000100000000$wire")" > "$into/seed-$number"
      done < <(grep -v '^#' ../src/kind/dns/records.txt)
      ;;
    icmp)
      printf '\0\0\0\0\0\0\0\1abc' > "$into/seed-reply"
      printf '\201\0\0\0\0\0\0\1abc' > "$into/seed-reply6"
      printf '\10\0\0\0\0\0\0\1abc' > "$into/seed-request"
      printf '\200\0\0\0\0\0\0\1abc' > "$into/seed-request6"
      ;;
    http_answer)
      printf '\0' | cat - <(printf 'hello hello hello' | gzip -n) > "$into/seed-gzip"
      printf '\1\313\110\315\311\311\127\310\100\220\000' > "$into/seed-deflate"
      printf '\2\013\002\200hello\003' > "$into/seed-br"
      printf '\3a=b; Path=/a; Secure\nc=d; Domain=web.test; Max-Age=10; HttpOnly\ne=f; Expires=Wed, 21 Oct 2099 07:28:00 GMT' > "$into/seed-cookies"
      printf '\4/d\n//www.web.test:8443/e\nhttps://user:pass@www.other.test/?f#g\n../h' > "$into/seed-redirects"
      printf '\5Wed, 21 Oct 2015 07:28:00 GMT' > "$into/seed-modified"
      printf '\6HTTP/1.1 200 Connection established\r\n\r\n' > "$into/seed-tunnel"
      ;;
    tcp_dialogue)
      printf '^SSH-(\\d+)\\.(\\d+)-(?P<software>\\S+)\n${1}.$2 $software $$\nhello\r\nSSH-2.0-OpenSSH_9.2 Debian\r\n' > "$into/seed-ssh"
      printf '^220.*ESMTP (.*)$\n$1\n220-first\r\n220 ESMTP ready\r\nmore' > "$into/seed-smtp"
      printf '[[:alpha:]\\D]{2,3}|\\bx\\B\n$0\n\351\377\nxy' > "$into/seed-class"
      printf 'PONG\n$0${1}\n+PONG' > "$into/seed-literal"
      ;;
    stun)
      printf '\0\1\1\0\014\041\022\244\102\0\1\2\3\4\5\6\7\10\11\12\13\0\40\0\10\0\1\55\134\341\022\246\103' > "$into/seed-mapped"
      printf '\0\1\1\0\010\041\022\244\102\0\1\2\3\4\5\6\7\10\11\12\13\200\50\0\4\0\0\0\0' > "$into/seed-checksum"
      printf '\1\0\11\0\17\0\0\4\1Unauthorized\0\0\24\0\5realm\0\0\0\200\42\0\4test' > "$into/seed-error"
      printf '\1\0\26\0\24\0\2\55\134\40\1\15\270\0\0\0\0\0\0\0\0\0\0\0\1\0\15\0\4\0\0\2\130' > "$into/seed-relayed"
      printf '\0\100\1\0\5hello\0\0\0' > "$into/seed-channel"
      ;;
    websocket_handshake)
      local accept='HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n'
      printf "$accept"'Sec-WebSocket-Protocol: a\r\n\r\n' > "$into/seed-upgrade"
      printf "$accept"'Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Protocol: b\r\n\r\n' > "$into/seed-extension"
      printf 'HTTP/1.0 403 Forbidden\nContent-Length: 0\n\n' > "$into/seed-refusal"
      ;;
    manifests)
      # one seed for each document: short inputs are tried faster
      for file in ../tests/manifests/*.yaml; do
        awk -v into="$into/seed-$(basename "$file" .yaml)" '/^---/ { n++ } { print > (into "-" n + 0) }' "$file"
      done
      ;;
  esac
}

# longest TARGET: bytes of an input; for texts that are slow to read, less
longest() {
  case $1 in
    exposition | manifests | blackbox) echo 4096 ;;
    *) echo 32768 ;;
  esac
}

for target in "${targets[@]}"; do
  plant "$target"
  mkdir -p "crashes/$target"
  echo "== $target: $seconds s"
  "$bin/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len="$(longest "$target")" -print_final_stats=1 -print_funcs=0 \
    -verbosity=0 -artifact_prefix="crashes/$target/" "corpus/$target"
done

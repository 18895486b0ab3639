#!/bin/sh
# Each target for SECONDS (1,800 by default), one after the other; stops at the first finding, which libFuzzer prints and keeps.
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and what make_corpus.sh needs.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-1800}
[ -d fuzz/corpus/decode ] || fuzz/make_corpus.sh
export RUSTC_BOOTSTRAP=1
cargo fuzz run sniff -- -max_total_time="$seconds"
cargo fuzz run realtime_event -- -max_total_time="$seconds" -max_len=16384 -timeout=30 -rss_limit_mb=2048
# Hostile files may cost a decoder its process, but never more than its limits: 512 MiB and ten seconds.
cargo fuzz run decode -- -max_total_time="$seconds" -max_len=200000 -timeout=30 -rss_limit_mb=2048

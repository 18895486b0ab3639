#!/usr/bin/env bash
# Plays a newcomer: a bare Debian in a folder (git, Python, curl, Rust; no cmake, no compiler, no model), a clone, and
# the two commands of the README.  sudo tests/fresh_machine.sh [all|refuse|run|test] [FOLDER]
# FOLDER (default: a new one, deleted afterwards) keeps the system for another look. Needs root, debootstrap, network.
# Uses this computer's package mirror, certificates and Rust; takes the committed state of this repository.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
what=${1:-all}
system=${2:-}
port=${PORT:-18080}

[ "$(id -u)" -eq 0 ] || { echo "error: run this as root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "error: debootstrap is missing; apt-get install debootstrap" >&2; exit 1; }

step() { printf '\n== %s\n' "$*"; }
passed=0
pass() { passed=$((passed + 1)); echo "ok   $*"; }
fail() { echo "FAIL $*" >&2; exit 1; }

throw_away=
if [ -z "$system" ]; then
    system=$(mktemp -d /var/tmp/fresh-machine.XXXXXX)
    throw_away=1
fi
mounted=()
server=
# shellcheck disable=SC2317 # called by the trap
leave() {
    local point
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    for point in "${mounted[@]}"; do umount --lazy "$point" || true; done
    # Never delete through a mount.
    if [ -n "$throw_away" ] && ! grep -q " $system/" /proc/mounts; then rm -rf "$system"; fi
}
trap leave EXIT

step "a bare system in $system"
# shellcheck disable=SC1091
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2016 # apt's own placeholders
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk -v suite="$codename" '$1 == suite && $2 == "main" { print $3; exit }')
[ -n "$mirror" ] || fail "apt on this computer has no archive of $codename"
if [ ! -x "$system/usr/bin/git" ]; then
    debootstrap --variant=minbase --include=git,python3,ca-certificates,curl "$codename" "$system" "$mirror" >/dev/null
fi
cp /etc/resolv.conf "$system/etc/resolv.conf"
mkdir -p "$system/usr/local/share/ca-certificates"
cp /usr/local/share/ca-certificates/*.crt "$system/usr/local/share/ca-certificates/" 2>/dev/null || true
chroot "$system" update-ca-certificates >/dev/null 2>&1
for tool in cmake g++ cc make; do
    chroot "$system" sh -c "command -v $tool" >/dev/null && fail "\`$tool\` is there already; give another folder"
done

attach() {
    mkdir -p "$system$2"
    mount "${@:3}" --bind "$1" "$system$2"
    mounted=("$system$2" "${mounted[@]}")
}
mount -t proc proc "$system/proc" && mounted=("$system/proc" "${mounted[@]}")
attach /dev /dev
attach "${RUSTUP_HOME:-$HOME/.rustup}" /opt/rustup --read-only
attach "${CARGO_HOME:-$HOME/.cargo}/bin" /opt/cargo-bin --read-only
chroot "$system" useradd --create-home newcomer 2>/dev/null || true

# inside USER COMMAND: in the clone, with nothing of this computer's environment but the name servers and certificates.
inside() {
    chroot "$system" runuser -u "$1" -- env -i HOME="$(chroot "$system" getent passwd "$1" | cut -d: -f6)" TERM=dumb \
        PATH=/opt/cargo-bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin RUSTUP_HOME=/opt/rustup \
        SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt CI=true \
        bash -c "cd /srv/WhisperBackendAPI && $2" </dev/null
}
rm -rf "$system/srv/WhisperBackendAPI"
git clone --quiet --no-hardlinks "$ROOT" "$system/srv/WhisperBackendAPI"
chroot "$system" chown -R newcomer /srv/WhisperBackendAPI

step "without root and without a compiler: one sentence, no question, not 0"
if inside newcomer ./build.sh >"$system/tmp/refused" 2>&1; then fail "./build.sh succeeded without a compiler"; fi
tail -n 3 "$system/tmp/refused"
grep -q "apt-get install" "$system/tmp/refused" || fail "the message does not say what to type"
pass "./build.sh refuses and says what to type"
chroot "$system" chown -R root /srv/WhisperBackendAPI

wait_for_health() {
    local seconds=$1
    local end=$((SECONDS + seconds))
    until curl --fail --silent --output /dev/null "http://127.0.0.1:$port/health"; do
        kill -0 "$server" 2>/dev/null || { cat "$system/tmp/run.log"; fail "./run.sh ended"; }
        [ "$SECONDS" -lt "$end" ] || { tail -n 40 "$system/tmp/run.log"; fail "no /health within $seconds s"; }
        sleep 0.1
    done
}
stop_server() {
    # The process that answers, not the shells around it: the one that owns the port.
    kill -TERM "$(pgrep --full --newest "WhisperBackendAPI serve --port $port")"
    wait "$server" || fail "the server ended with code $? after SIGTERM"
    server=
}

if [ "$what" = all ] || [ "$what" = run ]; then
    step "./run.sh"
    begin=$SECONDS
    inside root "./run.sh --port $port" >"$system/tmp/run.log" 2>&1 &
    server=$!
    wait_for_health 3600
    pass "./run.sh serves after $((SECONDS - begin)) s"
    line=$(grep --only-matching --max-count=1 'curl .*' "$system/tmp/run.log") || fail "./run.sh printed no curl line"
    echo "$line"
    answer=$(inside root "$line") || fail "the printed curl line failed: $answer"
    echo "$answer"
    grep -qi "ask what you can do for your country" <<<"$answer" || fail "not the text of the recording"
    pass "the printed curl line answers with the recording's text"
    stop_server
    pass "SIGTERM ends the server with code 0"

    step "./run.sh again, nothing changed"
    begin=$(date +%s%N)
    inside root "./run.sh --port $port" >"$system/tmp/run.log" 2>&1 &
    server=$!
    wait_for_health 60
    milliseconds=$((($(date +%s%N) - begin) / 1000000))
    [ "$milliseconds" -le 5000 ] || fail "serving only after $milliseconds ms"
    pass "serving again after $milliseconds ms"
    stop_server
fi

if [ "$what" = all ] || [ "$what" = test ]; then
    step "./build.sh test"
    begin=$SECONDS
    inside root "./build.sh test" 2>&1 | tee "$system/tmp/test.log" | tail -n 60 || fail "./build.sh test"
    pass "./build.sh test in $((SECONDS - begin)) s"
fi
printf '\n%d passed, 0 failed\n' "$passed"

#!/usr/bin/env bash
# Makes a .deb and a tarball of a built server: the program, its notices, the systemd units, completions and manual page
# (both from the program's own command line).
#   scripts/package.sh [BINARY] [FOLDER]     default: target/release/WhisperBackendAPI, into target/package
# Needs dpkg-dev. The .deb depends on what the binary is linked with (dpkg-shlibdeps).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
binary=$(realpath "${1:-${CARGO_TARGET_DIR:-target}/release/WhisperBackendAPI}")
out=${2:-${CARGO_TARGET_DIR:-target}/package}
name=whisper-backend-api
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Everything with the modes of a package, whatever the umask is.
tree=$work/tree
install -D --strip "$binary" "$tree/usr/bin/WhisperBackendAPI"
program=$tree/usr/bin/WhisperBackendAPI
ln -s WhisperBackendAPI "$tree/usr/bin/$name"
install -D -m 644 -t "$tree/lib/systemd/system" deploy/systemd/$name.service deploy/systemd/$name.socket
install -D -m 644 -t "$tree/usr/share/doc/$name" THIRD-PARTY-NOTICES.txt README.md CHANGELOG.md docs/operation.md docs/security.md
install -D -m 644 LICENSE "$tree/usr/share/doc/$name/copyright"
install -D -m 644 config.toml "$tree/etc/$name/config.toml"
install -d "$tree/usr/share/man/man1" "$tree/usr/share/bash-completion/completions" \
    "$tree/usr/share/zsh/vendor-completions" "$tree/usr/share/fish/vendor_completions.d"
"$program" man | gzip -9n >"$tree/usr/share/man/man1/WhisperBackendAPI.1.gz"
"$program" completions bash >"$tree/usr/share/bash-completion/completions/WhisperBackendAPI"
"$program" completions zsh >"$tree/usr/share/zsh/vendor-completions/_WhisperBackendAPI"
"$program" completions fish >"$tree/usr/share/fish/vendor_completions.d/WhisperBackendAPI.fish"
chmod -R u=rwX,go=rX "$tree"

tarball=$out/$name-$version-$(uname -m)-linux.tar.gz
tar --create --gzip --file "$tarball" --owner=0 --group=0 --numeric-owner --sort=name \
    --transform "s,^\\.,$name-$version," --directory "$tree" .

# dpkg-shlibdeps wants a source package round it.
mkdir -p "$work/debian"
printf 'Source: %s\n\nPackage: %s\nArchitecture: any\n' "$name" "$name" >"$work/debian/control"
needs=$(cd "$work" && dpkg-shlibdeps -O "$program" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
mkdir "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: $name
Version: $version
Architecture: $architecture
Maintainer: WhisperBackendAPI <whisper-backend-api@localhost>
Section: sound
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f 1)
Depends: $needs, ca-certificates
Description: local transcription server that speaks Azure OpenAI's Whisper API
 Serves Azure OpenAI's and OpenAI's audio routes with Whisper models on this computer's processor or GPU. The service
 is not started by the installation: the first start fetches a model.
CONTROL
echo "/etc/$name/config.toml" >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/postinst" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # After an upgrade the new program serves; a service that is stopped stays stopped.
    [ -z "$2" ] || systemctl try-restart whisper-backend-api.service || true
fi
SCRIPT
cat >"$tree/DEBIAN/prerm" <<'SCRIPT'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now whisper-backend-api.socket whisper-backend-api.service || true
fi
SCRIPT
cat >"$tree/DEBIAN/postrm" <<'SCRIPT'
#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
if [ "$1" = purge ]; then
    # Models and temporary files, where systemd keeps them for a dynamic user, and settings that were added.
    for kept in /var/lib /var/cache; do
        rm -rf "$kept/private/whisper-backend-api" "$kept/whisper-backend-api"
    done
    rm -rf /etc/whisper-backend-api
    rm -f /etc/default/whisper-backend-api
fi
SCRIPT
chmod 755 "$tree/DEBIAN/postinst" "$tree/DEBIAN/prerm" "$tree/DEBIAN/postrm"
package=$out/${name}_${version}_$architecture.deb
dpkg-deb --root-owner-group --build "$tree" "$package" >/dev/null
echo "$tarball"
echo "$package"

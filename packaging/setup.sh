#!/bin/sh
# Makes .venv with memnotify in it, and first installs the system packages that this needs and that are missing.
#
#   packaging/setup.sh            what the server needs
#   packaging/setup.sh dev        also what tests and lint need
#   packaging/setup.sh guest      also what boots a virtual machine for the guest tier, and what runs containers
#   packaging/setup.sh packages   the system packages alone, and no .venv
#   packaging/setup.sh report     also what draws the pictures of `make detection`
#
# Does nothing, quickly, when all of it is there already. As an ordinary user it uses sudo for the packages.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-}

say() { printf '%s\n' "$*"; }
fail() { printf 'memnotify: %s\n' "$*" >&2; exit 2; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

missing_packages() {
    python=$(find_python)
    command -v cc >/dev/null 2>&1 || printf ' gcc libc6-dev'
    command -v pkg-config >/dev/null 2>&1 || printf ' pkg-config'
    command -v fusermount3 >/dev/null 2>&1 || printf ' fuse3'
    pkg-config --exists fuse3 2>/dev/null || printf ' libfuse3-dev'
    if [ -z "$python" ]; then
        printf ' python3 python3-dev python3-venv'
    else
        "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || printf ' python3-dev'
        "$python" -c 'import ensurepip, venv' 2>/dev/null || printf ' python3-venv'
    fi
    if [ -n "$extras" ] && [ "$extras" != packages ]; then
        command -v perl >/dev/null 2>&1 || printf ' perl'
    fi
    if [ "$extras" = guest ] || [ "$extras" = report ]; then
        command -v qemu-system-x86_64 >/dev/null 2>&1 || printf ' qemu-system-x86'
        command -v busybox >/dev/null 2>&1 || printf ' busybox-static'
        [ -x /sbin/depmod ] || printf ' kmod'
        command -v udevadm >/dev/null 2>&1 || printf ' udev'
        [ -x /sbin/mke2fs ] || printf ' e2fsprogs'
        command -v mmdebstrap >/dev/null 2>&1 || printf ' mmdebstrap'
        command -v crun >/dev/null 2>&1 || printf ' crun'
        command -v podman >/dev/null 2>&1 || printf ' podman'
        command -v runc >/dev/null 2>&1 || printf ' runc'
    fi
}

install_packages() {
    say "memnotify: installing the system packages that are missing:$*"
    command -v apt-get >/dev/null 2>&1 ||
        fail "this is not Debian or Ubuntu; please install what corresponds to:$*"
    if [ "$(id -u)" = 0 ]; then
        as_root=
    elif command -v sudo >/dev/null 2>&1; then
        as_root=sudo
        say "memnotify: this needs root; using sudo"
    else
        fail "no root and no sudo; please have these packages installed:$*"
    fi
    # Package lists may be missing altogether on a fresh machine, or too old.
    $as_root apt-get -q update
    # shellcheck disable=SC2086,SC2068 # words are meant to be split
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $@
}

stamp=.venv/.installed${extras:+-$extras}
if [ -x .venv/bin/memnotify ] && [ -e "$stamp" ] && [ "$stamp" -nt pyproject.toml ] &&
    [ "$stamp" -nt packaging/setup.sh ] && command -v fusermount3 >/dev/null 2>&1; then
    exit 0
fi

missing=$(missing_packages)
[ -z "$missing" ] || install_packages "$missing"
[ "$extras" != packages ] || exit 0
python=$(find_python)
[ -n "$python" ] || fail "Python 3.11 or newer is needed, and this system has none"

if [ ! -x .venv/bin/python ]; then
    say "memnotify: making .venv with $python"
    "$python" -m venv .venv
fi
say "memnotify: installing memnotify and what it needs into .venv"
case $extras in guest) extras=dev,guest ;; report) extras=dev,guest,report ;; esac
# editable_mode=compat: a path in place of an import hook, which would be in the memory of every process.
.venv/bin/python -m pip --quiet --disable-pip-version-check install \
    --config-settings editable_mode=compat --editable ".${extras:+[$extras]}"
touch "$stamp"

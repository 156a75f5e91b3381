#!/bin/sh
# Installs memnotify as a service of systemd, or removes all that this installed.
#
#   packaging/service.sh install      make a virtual environment, install units and user, enable and start
#   packaging/service.sh uninstall    stop, and remove all of it
#
# For root. PREFIX (default /usr/local) is where the program goes: PREFIX/lib/memnotify, with a link in PREFIX/bin.
set -eu
cd "$(dirname "$0")/.."

PREFIX=${PREFIX:-/usr/local}
LIB=$PREFIX/lib/memnotify
BIN=$PREFIX/bin/memnotify
UNITS=/etc/systemd/system
SYSUSERS=/etc/sysusers.d/memnotify.conf
SERVICES="memnotify.service memnotify-suspend.service"

say() { printf 'memnotify: %s\n' "$*"; }
fail() { printf 'memnotify: %s\n' "$*" >&2; exit 2; }

find_python() {
    for candidate in ${PYTHON:-} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

# Whether systemd is there and runs: units can be installed without, as in a chroot.
systemd_runs() { [ -d /run/systemd/system ]; }

install() {
    command -v systemctl >/dev/null 2>&1 || fail "no systemctl: this is for systemd; see docs/reliability.md for others"
    python=$(find_python)
    [ -n "$python" ] || fail "Python 3.11 or newer, with venv, is needed, and this system has none"
    case $PREFIX in /*) ;; *) fail "PREFIX=$PREFIX: not an absolute path" ;; esac
    if [ -e "$BIN" ] && [ "$(readlink "$BIN")" != "$LIB/bin/memnotify" ]; then
        fail "$BIN is there already, and not ours"
    fi
    say "installing into $LIB"
    # Built from a copy: a build folder in the checkout would be root's, and could have modules of another version.
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    cp -R memnotify_cuse pyproject.toml README.md LICENSE "$copy"
    [ -x "$LIB/bin/python" ] || "$python" -m venv "$LIB"
    "$LIB/bin/python" -m pip --quiet --disable-pip-version-check install --upgrade "$copy"
    cp README.md "$LIB/README.md"
    mkdir -p "$PREFIX/bin" "$UNITS" "$(dirname "$SYSUSERS")"
    ln -sfn "$LIB/bin/memnotify" "$BIN"
    for unit in $SERVICES; do
        sed "s|/usr/local/lib/memnotify|$LIB|g" "packaging/$unit" > "$UNITS/$unit"
    done
    cp packaging/memnotify.sysusers "$SYSUSERS"
    systemd-sysusers "$SYSUSERS"
    if systemd_runs; then
        systemctl daemon-reload
    fi
    # shellcheck disable=SC2086 # words are meant to be split
    systemctl --quiet enable $SERVICES
    if systemd_runs; then
        if systemctl --quiet is-active memnotify.service; then
            say "replacing the running service"
            systemctl reload-or-restart memnotify.service
        else
            systemctl start memnotify.service
        fi
        systemctl --no-pager --lines=0 status memnotify.service || true
    fi
    say "installed; remove it with: make uninstall-service"
}

uninstall() {
    # shellcheck disable=SC2086
    if systemd_runs; then
        systemctl --quiet stop $SERVICES 2>/dev/null || true
    fi
    # shellcheck disable=SC2086
    systemctl --quiet disable $SERVICES 2>/dev/null || true
    for unit in $SERVICES; do
        rm -f "$UNITS/$unit"
        rm -rf "$UNITS/$unit.d"
    done
    if systemd_runs; then
        systemctl daemon-reload
        # shellcheck disable=SC2086
        systemctl --quiet reset-failed $SERVICES 2>/dev/null || true
    fi
    if [ "$(readlink "$BIN" 2>/dev/null)" = "$LIB/bin/memnotify" ]; then
        rm -f "$BIN"
    fi
    rm -rf "$LIB"
    # The user goes only if it was made for this.
    if [ -e "$SYSUSERS" ]; then
        rm -f "$SYSUSERS"
        rmdir "$(dirname "$SYSUSERS")" 2>/dev/null || true
        userdel memnotify 2>/dev/null || true
        groupdel memnotify 2>/dev/null || true
    fi
    say "removed"
}

[ "$(id -u)" = 0 ] || fail "this needs root: sudo make ${1:-install}-service"
case ${1:-} in
install) install ;;
uninstall) uninstall ;;
*) fail "usage: packaging/service.sh install|uninstall" ;;
esac

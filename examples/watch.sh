#!/bin/sh
# Watch /dev/mem_notify from a POSIX shell: each line that can be read is a notification.
#
# Run:     sh watch.sh [DEVICE [COUNT]]     DEVICE: default /dev/mem_notify; COUNT: end after so many
#                                           notifications, default 0: never
# Try it:  sudo memnotify simulate --for 2
#
# A blocked read keeps the machine from going to sleep, unless memnotify-suspend.service is there
# (docs/reliability.md).
# Prints one line per notification: its record. Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications;
# not 0 when the device fails.

device=${1:-/dev/mem_notify}
count=${2:-0}
told=0

trap 'exit 0' TERM INT

# Opened once: between two "read < device" nobody would be listening.
exec 3< "$device" || exit 1
echo "watching $device" >&2

while read -r line <&3; do
    printf '%s\n' "$line"
    told=$((told + 1))
    [ "$told" -eq "$count" ] && exit 0
done

echo "$0: the server behind $device is gone" >&2
exit 1

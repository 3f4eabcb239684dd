#!/bin/sh
# Purging takes away the configuration, the keys, the records and the users.
set -e

if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
[ "$1" = purge ] || exit 0
rm -rf /etc/orama /var/lib/orama /run/orama /run/orama-turn /run/orama-sfu
for user in orama-sfu orama-turn orama; do
  if getent passwd "$user" >/dev/null; then
    userdel "$user" || true
  fi
  if getent group "$user" >/dev/null; then
    groupdel "$user" || true
  fi
done

#!/bin/sh
# Makes the users, and tells systemd of the units. An upgrade restarts the agent alone: the TURN server and the
# SFUs go on with the calls they have, as they were, until they are restarted.
set -e

[ "$1" = configure ] || exit 0
systemd-sysusers /usr/lib/sysusers.d/orama.conf
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
systemctl reload-or-try-restart polkit.service 2>/dev/null || true
systemctl enable --quiet --now orama-firewall.socket
if [ -n "$2" ]; then
  systemctl try-restart orama.service
  if systemctl is-active --quiet orama-turn.service; then
    echo "orama: TURN and SFUs still run the version before; when their calls may end: systemctl restart orama-turn 'orama-namespace-sfu@*'"
  fi
else
  echo "orama: next, 'orama node init' or 'orama node join', then 'systemctl enable --now orama'"
fi

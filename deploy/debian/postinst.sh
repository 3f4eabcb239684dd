#!/bin/sh
# Makes the users, and tells systemd of the units. An upgrade restarts the agent, and has the new TURN server
# take the place of the old one, which serves the relays it has to their end. SFUs go on as they were until they are restarted.
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
    systemctl reload orama-turn.service || true
    echo "orama: SFUs still run the version before; when their calls may end: systemctl restart 'orama-namespace-sfu@*'"
  fi
else
  echo "orama: next, 'orama node init' or 'orama node join', then 'systemctl enable --now orama'"
fi

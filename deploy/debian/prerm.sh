#!/bin/sh
# Before the package goes, everything of it ends: the agent first, so that it starts nothing again.
set -e

[ "$1" = remove ] || exit 0
[ -d /run/systemd/system ] || exit 0
systemctl disable --quiet --now orama.service || true
systemctl stop 'orama-namespace-sfu@*.service' || true
systemctl stop 'orama-namespace-turn@*.service' orama-turn.service || true
systemctl stop 'orama-mesh@*.service' || true
systemctl disable --quiet --now orama-firewall.socket || true
systemctl stop orama-firewall.service || true

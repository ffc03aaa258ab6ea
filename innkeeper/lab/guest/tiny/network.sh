#!/bin/sh
# Give every network card its address: the one from the seed (kept in /etc/network.static as lines of
# "MAC ADDRESS/LENGTH GATEWAY|- DNS…", MAC * for any), else by DHCP.
only=$1
for path in /sys/class/net/*; do
  card=${path##*/}
  [ "$card" = lo ] && continue
  [ -n "$only" ] && [ "$card" != "$only" ] && continue
  ip link set "$card" up
  line=$(grep -s -E -m 1 -e "^($(cat "$path/address")|\*) " /etc/network.static)
  if [ -z "$line" ]; then
    udhcpc -i "$card" -s /usr/sbin/lease -x "hostname:$(hostname)" -t 20 -T 1 -A 1 -S -b >/dev/null 2>&1 &
    continue
  fi
  set -f
  set -- $line
  set +f
  ip addr replace "$2" dev "$card"
  [ "$3" = - ] || ip route replace default via "$3"
  shift 3
  [ $# -gt 0 ] && printf 'nameserver %s\n' "$@" >/etc/resolv.conf
done

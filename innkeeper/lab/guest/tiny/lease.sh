#!/bin/sh
# udhcpc calls this with what it was told.
case $1 in
  bound | renew)
    ip addr replace "$ip/${mask:-24}" dev "$interface"
    # A further card is the way out only while there is no other.
    [ -n "$router" ] && { [ "$interface" = eth0 ] || ! ip route | grep -q ^default; } &&
      ip route replace default via "${router%% *}" dev "$interface"
    [ -n "$dns" ] && printf 'nameserver %s\n' $dns >/etc/resolv.conf
    ;;
  deconfig) ip link set "$interface" up ;;
esac
exit 0

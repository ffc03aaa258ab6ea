#!/bin/sh
# udhcpc calls this with what it was told.
case $1 in
  bound | renew)
    ip addr replace "$ip/${mask:-24}" dev "$interface"
    [ -n "$router" ] && ip route replace default via "${router%% *}"
    [ -n "$dns" ] && printf 'nameserver %s\n' $dns >/etc/resolv.conf
    ;;
  deconfig) ip link set "$interface" up ;;
esac
exit 0

#!/bin/sh
# Write the name servers that networkd knows into resolv.conf.
servers=$(sed -n 's/^DNS=//p' /run/systemd/netif/state)
[ -n "$servers" ] && printf 'nameserver %s\n' $servers >/etc/resolv.conf
exit 0

#!/bin/sh
# Called by "busybox uevent" for every kernel event: bring what was plugged in online.
[ "$ACTION" = add ] || exit 0
case $SUBSYSTEM in
  cpu) echo 1 >"/sys$DEVPATH/online" ;;
  memory) echo online >"/sys$DEVPATH/state" ;;
  net) [ "$INTERFACE" = eth0 ] || /usr/sbin/network "$INTERFACE" ;;
esac 2>/dev/null
exit 0

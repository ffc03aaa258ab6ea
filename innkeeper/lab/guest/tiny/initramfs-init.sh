#!/bin/sh
# First program of both lab guests: load what a virtio disk needs, then hand over to the real root.
busybox=/bin/busybox
$busybox mount -t devtmpfs dev /dev
$busybox mount -t proc proc /proc
for module in $($busybox cat /modules/order); do
  $busybox insmod "/modules/$module"
done
tries=0
while [ ! -b /dev/vda1 ] && [ $tries -lt 400 ]; do
  $busybox sleep 0.05
  tries=$((tries + 1))
done
next=/sbin/init
for word in $($busybox cat /proc/cmdline); do
  case $word in init=*) next=${word#init=} ;; esac
done
$busybox mount -t ext4 -o rw,noatime /dev/vda1 /root
$busybox umount /proc
$busybox mount --move /dev /root/dev
exec $busybox switch_root /root "$next"

#!/bin/sh
# Boot of the tiny guest, called once by busybox init. Order serves the time until SSH answers.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 run /run
mkdir -p /dev/pts /dev/shm /dev/virtio-ports /run/lock /run/cloud-init
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm

for module in $(cat /usr/lib/modules/guest/order); do
  insmod "/usr/lib/modules/guest/$module" 2>/dev/null
done
# Hot-plugged memory and processors come up offline: no udev does it here.
echo online >/sys/devices/system/memory/auto_online_blocks
uevent /usr/sbin/hotplug >/dev/null 2>&1 &

ip link set lo up
seed=/run/seed
mkdir -p $seed
for device in /dev/vd[b-z] /dev/sr0; do
  [ -b "$device" ] && mount -t iso9660 -o ro "$device" $seed 2>/dev/null || continue
  [ -f $seed/meta-data ] && break
  umount $seed
done

# The network needs nothing from the seed unless that brings addresses.
[ -f $seed/network-config ] || /usr/sbin/network
state=/var/lib/cloud
if ! cmp -s $seed/meta-data $state/meta-data ||
  { [ -f $seed/network-config ] && ! cmp -s $seed/network-config $state/network-config; }; then
  [ -f $seed/meta-data ] && python3 -I -S /usr/sbin/nocloud.py local $seed
fi
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
hostname "$(cat /etc/hostname)"
[ -f $seed/network-config ] && /usr/sbin/network

if ! ls /etc/dropbear/dropbear_*_host_key >/dev/null 2>&1; then
  dropbearkey -t ed25519 -f /etc/dropbear/dropbear_ed25519_host_key >/dev/null 2>&1
fi
keys=
for key in /etc/dropbear/dropbear_*_host_key; do keys="$keys -r $key"; done
[ -f /etc/dropbear/passwords ] && logins= || logins=-s
dropbear $logins $keys -P /run/dropbear.pid

for port in /sys/class/virtio-ports/*; do
  [ -s "$port/name" ] && ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
channel=/dev/virtio-ports/org.qemu.guest_agent.0
[ -e $channel ] && qemu-ga -d -m virtio-serial -p $channel -t /run -f /run/qemu-ga.pid -l /var/log/qemu-ga.log
acpid -f >/dev/null 2>&1 &

{
  growpart /dev/vda 1 && resize2fs /dev/vda1
  if [ ! -f $state/finished ] && [ -f $seed/user-data ]; then
    python3 -I -S /usr/sbin/nocloud.py final $seed
  fi
  # A guest whose QEMU is killed must not lose its keys, or wake up with half a first boot.
  touch $state/finished
  sync
  umount $seed
  [ -f /run/cloud-init/result.json ] || echo '{"v1": {"datasource": null, "errors": []}}' >/run/cloud-init/result.json
  echo "$(hostname) is up" >/dev/console
} >/var/log/final.log 2>&1 &

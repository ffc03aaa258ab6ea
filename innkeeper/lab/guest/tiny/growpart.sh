#!/bin/sh
# growpart DISK NUMBER, without the udev that the one of cloud-utils needs.
echo ', +' | sfdisk -q -N "$2" --force --no-reread --no-tell-kernel "$1" && partx -u --nr "$2" "$1"

#!/bin/sh
# Every user of the tiny guest is uid 0. Accept sudo's common options, so that Ansible's become works.
while :; do
  case $1 in
    -u | -g | -p | -C | -h) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
  esac
done
exec "$@"

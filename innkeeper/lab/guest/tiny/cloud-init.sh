#!/bin/sh
# Stand-in for "cloud-init status [--wait]"; nocloud.py does what cloud-init would have done.
[ "$1" = status ] || { echo "only 'status' here" >&2; exit 2; }
result=/run/cloud-init/result.json
case " $* " in *" --wait "*) while [ ! -f $result ]; do sleep 0.2; done ;; esac
[ -f $result ] || { echo "status: running"; exit 0; }
case $(cat $result) in
  *'"errors": []'*) echo "status: done" ;;
  *) echo "status: error"; exit 1 ;;
esac

"""Whether a host can limit the bandwidth of network cards: its kernel has to know how.

libvirt calls `tc`, and a domain whose document has a limit does not start where that fails. So it
is tried beforehand, with libvirt's own commands, on a device that no guest has.
"""

from innkeeper.host.channel import HostChannel

DEVICE = "ik-shaping"
_SHAPE = (
    ("qdisc", "add", "dev", DEVICE, "root", "handle", "1:", "htb", "default", "1"),
    ("class", "add", "dev", DEVICE, "parent", "1:", "classid", "1:1", "htb", "rate", "100kbps"),
    ("qdisc", "add", "dev", DEVICE, "parent", "1:1", "handle", "2:", "sfq", "perturb", "10"),
    (
        *("filter", "add", "dev", DEVICE, "parent", "1:0", "protocol", "all", "prio", "1"),
        *("handle", "1", "fw", "flowid", "1"),
    ),
    ("qdisc", "add", "dev", DEVICE, "ingress"),
    (
        *("filter", "add", "dev", DEVICE, "parent", "ffff:", "protocol", "all"),
        *("u32", "match", "u32", "0", "0", "police", "rate", "100kbps", "burst", "100kb"),
        *("mtu", "64kb", "drop", "flowid", ":1"),
    ),
)


def obstacle(channel: HostChannel) -> str | None:
    """Return what of limiting bandwidth a host cannot do, in the words of its `tc`; None: it can.

    What an attempt that was killed left behind goes first.

    Raises:
        HostUnreachable: the host does not answer.
        CommandFailed: it cannot even make the device.
    """
    channel.run(["ip", "link", "delete", DEVICE])
    channel.run(["ip", "tuntap", "add", "dev", DEVICE, "mode", "tap"]).check()
    try:
        for words in _SHAPE:
            ended = channel.run(["tc", *words])
            if ended.returncode != 0:
                lines = (ended.stderr or ended.stdout).strip().splitlines()
                return f"tc {' '.join(words[:2])}: {lines[0] if lines else ended.returncode}"
        return None
    finally:
        channel.run(["ip", "link", "delete", DEVICE])

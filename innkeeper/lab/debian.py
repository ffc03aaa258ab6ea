"""The Debian guest: trimmed for a quick boot, with real systemd, OpenSSH and cloud-init."""

import shutil
from pathlib import Path

from innkeeper.lab.disk import kernel_version, write_disk, write_initramfs
from innkeeper.lab.rootfs import call

SIZE_MIB = 2048
GUEST = Path(__file__).parent / "guest" / "debian"
OPTIONS = "systemd.show_status=0"
ENABLED = ("systemd-networkd.service", "resolv.path", "resolv.service", "ssh.service")
FILES = {
    "etc/fstab": "/dev/vda1 / ext4 defaults,noatime 0 0\n",
    "etc/cloud/ds-identify.cfg": "datasource: NoCloud\npolicy: enabled\n",
    "etc/systemd/journald.conf": "[Journal]\nStorage=volatile\n",
    "etc/hostname": "localhost\n",
    "etc/resolv.conf": "",  # the build machine's until now
    # As cloud-init would write it: else it does so at first boot, and restarts sshd.
    "etc/ssh/sshd_config.d/50-cloud-init.conf": "PasswordAuthentication no\n",
    # Empty: every guest gets its own; but no first-boot presets, which would enable timers again.
    "etc/machine-id": "",
}
COPIED = {
    "cloud.cfg": ("etc/cloud/cloud.cfg", 0o644),
    "resolv.path.conf": ("etc/systemd/system/resolv.path", 0o644),
    "resolv.service.conf": ("etc/systemd/system/resolv.service", 0o644),
    "resolv.sh": ("usr/local/sbin/resolv", 0o755),
}
# Keys are made or given at first boot; the big initramfs is replaced by ours.
REMOVED = ("etc/ssh/ssh_host_*", "boot/initrd.img-*", "var/lib/apt/lists/*", "var/cache/apt/*.bin")


def build(debian: Path, work: Path, output: Path) -> None:
    """Build the image `output` of the unpacked root file system `debian`, which it changes.

    Raises:
        ImageBuildFailed: a program is missing or failed.
    """
    shutil.copy(debian / "boot" / f"vmlinuz-{kernel_version(debian)}", debian / "boot" / "vmlinuz")
    write_initramfs(debian, work, debian / "boot" / "initrd")
    for pattern in REMOVED:
        for path in debian.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in FILES.items():
        (debian / name).write_text(text)
    for name, (target, mode) in COPIED.items():
        shutil.copy(GUEST / name, debian / target)
        (debian / target).chmod(mode)
    systemctl = ["systemctl", f"--root={debian}", "--quiet"]
    lines = (GUEST / "masked-units.conf").read_text().splitlines()
    call([*systemctl, "mask", *(line for line in lines if not line.startswith("#"))])
    call([*systemctl, "enable", *ENABLED])
    call([*systemctl, "set-default", "multi-user.target"])
    write_disk(debian, work, output, SIZE_MIB, OPTIONS)

"""The tiny guest: Debian's kernel, busybox, dropbear, guest agent and Python; no systemd.

It answers over SSH in seconds even under emulation, which makes tests with real guests cheap. All
its users are root, so it is no place to test security.
"""

import re
import shutil
from pathlib import Path

from innkeeper.lab.disk import (
    copy_modules,
    kernel_version,
    write_disk,
    write_initramfs,
    write_uefi_disk,
)
from innkeeper.lab.rootfs import call

SIZE_MIB = 256
GUEST = Path(__file__).parent / "guest" / "tiny"
PYTHON = "python3.11"  # of Debian bookworm
LIBRARIES = Path("usr/lib/x86_64-linux-gnu")
PROGRAMS = {
    f"usr/bin/{PYTHON}": "usr/bin",
    "usr/sbin/qemu-ga": "usr/sbin",
    "usr/sbin/mke2fs": "usr/sbin",
    "usr/sbin/resize2fs": "usr/sbin",
    "usr/sbin/sfdisk": "usr/sbin",
    "usr/bin/partx": "usr/sbin",
    "usr/sbin/dropbear": "usr/sbin",
    "usr/bin/dropbearkey": "usr/bin",
    "usr/lib/dropbear/dropbearconvert": "usr/bin",
    "usr/lib/openssh/sftp-server": "usr/lib/openssh",
}
# Loaded at run time, so no program names them.
EXTRA_LIBRARIES = ("libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1")
UNUSED_PYTHON = ("test", "idlelib", "tkinter", "pydoc_data", "lib2to3", "ensurepip", "turtledemo")
MODULES = (
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/char/hw_random/virtio-rng",
    "drivers/char/virtio_console",
    "drivers/virtio/virtio_balloon",
    "drivers/virtio/virtio_mem",
    "drivers/cdrom/cdrom",
    "fs/isofs/isofs",
    "drivers/acpi/button",
    "drivers/input/evdev",
    "fs/efivarfs/efivarfs",
)
SCRIPTS = {
    "rc.sh": "usr/sbin/rc",
    "network.sh": "usr/sbin/network",
    "lease.sh": "usr/sbin/lease",
    "hotplug.sh": "usr/sbin/hotplug",
    "shutdown.sh": "usr/sbin/shutdown",
    "growpart.sh": "usr/bin/growpart",
    "sudo.sh": "usr/bin/sudo",
    "cloud-init.sh": "usr/bin/cloud-init",
    "nocloud.py": "usr/sbin/nocloud.py",
}
FOLDERS = (
    "usr/bin", "usr/sbin", "usr/lib64", "usr/libexec", "usr/lib/openssh", str(LIBRARIES),
    "etc/dropbear", "etc/acpi/PWRF", "dev", "proc", "sys", "run", "root", "home/debian", "var/log",
    "var/tmp", "var/lib/cloud", "boot", "mnt", "tmp",
)  # fmt: skip
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndebian:x:0:0::/home/debian:/bin/sh\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\ndebian:*:19000:0:99999:7:::\n",
    "etc/group": "root:x:0:\nsudo:x:27:\n",
    "etc/shells": "/bin/sh\n/bin/bash\n",
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/inittab": "::sysinit:/sbin/rc\n::shutdown:/bin/sync\n::shutdown:/bin/umount -a -r\n"
    "::ctrlaltdel:/bin/busybox reboot\n",
    "etc/os-release": 'NAME="Innkeeper tiny guest"\nID=debian\nVERSION_ID="12"\n'
    "VERSION_CODENAME=bookworm\n",
    "etc/debian_version": "12\n",
    # acpid calls this for the power button
    "etc/acpi/PWRF/00000080": "#!/bin/sh\nbusybox poweroff\n",
}


def build(debian: Path, work: Path, output: Path) -> None:
    """Build the image `output` from the unpacked root file system `debian`, using folder `work`.

    Raises:
        ImageBuildFailed: a program is missing or failed.
    """
    tree = _tree(debian, work)
    write_disk(tree, work, output, SIZE_MIB)
    shutil.rmtree(tree)


def build_uefi(debian: Path, work: Path, output: Path) -> None:
    """Build the same guest for UEFI firmware.

    Raises:
        ImageBuildFailed: a program is missing or failed.
    """
    tree = _tree(debian, work)
    write_uefi_disk(tree, work, output, SIZE_MIB)
    shutil.rmtree(tree)


def _tree(debian: Path, work: Path) -> Path:
    tree = work / "tiny"
    _make_folders(tree)
    _copy_busybox(debian, tree)
    for source, target in PROGRAMS.items():
        shutil.copy(debian / source, tree / target)
    _copy_python(debian, tree)
    _copy_libraries(debian, tree)
    version = kernel_version(debian)
    guest_modules = tree / "usr" / "lib" / "modules" / "guest"
    copy_modules(debian / "usr" / "lib" / "modules" / version, MODULES, guest_modules)
    for name, target in SCRIPTS.items():
        shutil.copy(GUEST / name, tree / target)
        (tree / target).chmod(0o755)
    call(["chroot", str(tree), "/usr/bin/python3", "-I", "-S", "-m", "compileall", "-q",
          f"/usr/lib/{PYTHON}", "/usr/lib/python3/dist-packages"])  # fmt: skip
    call(["ldconfig", "-r", str(tree)])
    shutil.copy(debian / "boot" / f"vmlinuz-{version}", tree / "boot" / "vmlinuz")
    write_initramfs(debian, work, tree / "boot" / "initrd")
    return tree


def _make_folders(tree: Path) -> None:
    for folder in FOLDERS:
        (tree / folder).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    (tree / "var" / "run").symlink_to("/run")
    (tree / "tmp").chmod(0o1777)
    (tree / "var" / "tmp").chmod(0o1777)
    for name, text in FILES.items():
        (tree / name).write_text(text)
    (tree / "etc" / "shadow").chmod(0o600)
    (tree / "etc" / "acpi" / "PWRF" / "00000080").chmod(0o755)


def _copy_busybox(debian: Path, tree: Path) -> None:
    busybox = tree / "usr" / "bin" / "busybox"
    shutil.copy(debian / "usr" / "bin" / "busybox", busybox)
    own = {Path(name).name for name in (*SCRIPTS.values(), *PROGRAMS)}
    names = set(call([str(busybox), "--list"]).split()) - own - {"busybox"}
    for name in names | {"bash"}:  # users ask for bash as their shell
        (tree / "usr" / "bin" / name).symlink_to("busybox")
    for name in ("init", "hwclock"):  # the guest agent sets the clock by /sbin/hwclock
        (tree / "usr" / "sbin" / name).symlink_to("../bin/busybox")


def _copy_python(debian: Path, tree: Path) -> None:
    (tree / "usr" / "bin" / "python3").symlink_to(PYTHON)
    ignore = shutil.ignore_patterns(*UNUSED_PYTHON, "__pycache__", "config-*")
    source = debian / "usr" / "lib" / PYTHON
    shutil.copytree(source, tree / "usr" / "lib" / PYTHON, symlinks=True, ignore=ignore)
    packages = Path("usr/lib/python3/dist-packages")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("yaml", "_yaml"):
        shutil.copytree(debian / packages / name, tree / packages / name, ignore=ignore)


def _copy_libraries(debian: Path, tree: Path) -> None:
    """Copy what the programs and Python's extensions are linked with."""
    extensions = [*(tree / "usr/lib" / PYTHON / "lib-dynload").glob("*.so"),
                  *(tree / "usr/lib/python3").rglob("*.so")]  # fmt: skip
    linked = [f"/{p}" for p in PROGRAMS] + [f"/{p.relative_to(tree)}" for p in extensions]
    listed = call(["chroot", str(debian), "ldd", *linked])
    # "name => /path (address)", and the loader as "/path (address)"; "/path:" heads each program
    names = {Path(path).name for path in re.findall(r"(?:=> |^\t)(/\S+) \(", listed, re.MULTILINE)}
    for name in sorted(names | set(EXTRA_LIBRARIES)):
        shutil.copy(debian / LIBRARIES / name, tree / LIBRARIES / name)
    loader = "ld-linux-x86-64.so.2"
    (tree / "usr" / "lib64" / loader).symlink_to(f"../../{LIBRARIES / loader}")

"""Make a bootable qcow2 disk of a folder: an ext4 partition, a boot loader, a small initramfs."""

import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from innkeeper.lab.errors import ImageBuildFailed
from innkeeper.lab.rootfs import call

MIB = 1024 * 1024
START = MIB  # bytes before the first partition
ESP_MIB = 24  # of a UEFI disk, whose EFI system partition has the kernel
FIRST_SECTION = 0x2000000  # far above those that the stub brings
# No metadata checksums and no 64 bit block numbers: extlinux of Debian 12 reads neither.
FEATURES = "^metadata_csum,^64bit"
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
BOOT_RECORDS = ("/usr/lib/EXTLINUX/mbr.bin", "/usr/lib/syslinux/mbr/mbr.bin")
# What the guests have in common: quick start under emulation, console on the first serial port.
COMMAND_LINE = (
    "root=/dev/vda1 rw quiet loglevel=3 console=ttyS0 net.ifnames=0 mitigations=off audit=0 "
    "random.trust_cpu=on nowatchdog no_timer_check 8250.nr_uarts=1 init_on_alloc=0"
)
DISK_MODULES = (
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
)


def write_disk(tree: Path, work: Path, output: Path, size_mib: int, options: str = "") -> None:
    """Turn `tree` (with /boot/vmlinuz and /boot/initrd) into the qcow2 file `output`, for a BIOS.

    `work` is a folder for temporary files, `options` are added to the kernel's command line.

    Raises:
        ImageBuildFailed: a program is missing or failed.
    """
    boot = tree / "boot" / "extlinux"
    boot.mkdir(parents=True, exist_ok=True)
    (boot / "extlinux.conf").write_text(
        "DEFAULT linux\nTIMEOUT 1\nLABEL linux\n LINUX /boot/vmlinuz\n INITRD /boot/initrd\n"
        f" APPEND {COMMAND_LINE} {options}\n"
    )
    raw = _empty(work, size_mib)
    call(["parted", "-s", str(raw), "mklabel", "msdos", "mkpart", "primary", "ext4", "1MiB",
          "100%", "set", "1", "boot", "on"])  # fmt: skip
    with _root(raw, work, size_mib, START) as place:
        # Not by mke2fs -d: it leaves holes in files, and extlinux cannot read a kernel with holes.
        call(["cp", "--archive", "--sparse=never", f"{tree}/.", str(place)])
        call(["extlinux", "--install", str(place / "boot" / "extlinux")])
    record = next((Path(p) for p in BOOT_RECORDS if Path(p).exists()), None)
    if record is None:
        raise ImageBuildFailed("No boot record for extlinux: install the package extlinux.")
    with raw.open("r+b") as stream:
        stream.write(record.read_bytes())
    _finish(raw, output)


def write_uefi_disk(tree: Path, work: Path, output: Path, size_mib: int, options: str = "") -> None:
    """Do what `write_disk` does for UEFI firmware: kernel and initramfs are one EFI program.

    The root file system is the first partition by number and the last by place, so that it can
    grow; the firmware starts the program at the path that the UEFI specification names for media
    that have no boot entry (3.5.1.1).

    Raises:
        ImageBuildFailed: a program is missing or failed.
    """
    raw = _empty(work, size_mib)
    root = START + ESP_MIB * MIB
    call(["parted", "-s", str(raw), "mklabel", "msdos",
          "mkpart", "primary", "ext4", f"{root}B", "100%",
          "mkpart", "primary", "fat32", f"{START}B", f"{root - 1}B",
          "set", "2", "esp", "on"])  # fmt: skip
    with _root(raw, work, size_mib, root) as place:
        call(["cp", "--archive", f"{tree}/.", str(place)])
    program = work / "BOOTX64.EFI"
    _unified(tree, work, f"{COMMAND_LINE} {options}", program)
    call(["mkfs.vfat", "--offset", str(START // 512), "-F", "16", "-n", "ESP", str(raw),
          str(ESP_MIB * MIB // 1024)])  # fmt: skip
    inside = f"{raw}@@{START}"
    call(["mmd", "-i", inside, "::/EFI", "::/EFI/BOOT"])
    call(["mcopy", "-i", inside, str(program), "::/EFI/BOOT/BOOTX64.EFI"])
    _finish(raw, output)


def _empty(work: Path, size_mib: int) -> Path:
    raw = work / "disk.raw"
    with raw.open("wb") as stream:
        stream.truncate(size_mib * MIB)
    return raw


@contextmanager
def _root(raw: Path, work: Path, size_mib: int, offset: int) -> Iterator[Path]:
    """Make the root file system from `offset` (in bytes) to the end, and mount it."""
    blocks = str((size_mib * MIB - offset) // 1024)
    call(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-b", "4096", "-O", FEATURES, "-E",
          f"offset={offset}", str(raw), blocks + "k"])  # fmt: skip
    with mounted(raw, work / "mount", f"loop,offset={offset}") as place:
        yield place


def _unified(tree: Path, work: Path, command_line: str, output: Path) -> None:
    """Join kernel, initramfs and command line with systemd's stub to one program (systemd-stub(7)).

    The kernel comes last, as it is unpacked over what lies behind it.
    """
    (work / "cmdline").write_text(command_line)
    argv, at = ["objcopy"], FIRST_SECTION
    for name, source in (
        (".cmdline", work / "cmdline"),
        (".initrd", tree / "boot" / "initrd"),
        (".linux", tree / "boot" / "vmlinuz"),
    ):
        argv += ["--add-section", f"{name}={source}", "--change-section-vma", f"{name}={at:#x}"]
        at += -(-source.stat().st_size // MIB) * MIB
    call([*argv, str(STUB), str(output)])


def _finish(raw: Path, output: Path) -> None:
    call(["qemu-img", "convert", "-O", "qcow2", str(raw), str(output)])
    raw.unlink()


@contextmanager
def mounted(source: Path, place: Path, options: str) -> Iterator[Path]:
    """Mount `source` at the new folder `place` and unmount it in any case."""
    place.mkdir()
    call(["mount", "-o", options, str(source), str(place)])
    try:
        yield place
    finally:
        call(["umount", str(place)])
        place.rmdir()


def kernel_version(tree: Path) -> str:
    """Return the version of the one kernel in `tree`.

    Raises:
        ImageBuildFailed: there is none, or more than one.
    """
    versions = [p.name for p in (tree / "usr" / "lib" / "modules").iterdir()]
    if len(versions) != 1:
        raise ImageBuildFailed(f"Expected one kernel in the root file system, found {versions}.")
    return versions[0]


def copy_modules(modules: Path, names: Sequence[str], target: Path) -> None:
    """Copy kernel modules without debug information; `order` lists them as they must load.

    Modules that are built into this kernel, or do not exist in it, are left out.
    """
    target.mkdir(parents=True)
    kept = []
    for name in names:
        source = modules / "kernel" / f"{name}.ko"
        if source.exists():
            call(["strip", "-g", "-o", str(target / source.name), str(source)])
            kept.append(source.name)
    (target / "order").write_text("\n".join(kept) + "\n")


def write_initramfs(tree: Path, work: Path, output: Path) -> None:
    """Write an initramfs that loads what a virtio disk needs and switches to /dev/vda1."""
    root = work / "initramfs"
    for folder in ("bin", "dev", "proc", "root"):
        (root / folder).mkdir(parents=True)
    shutil.copy(tree / "usr" / "bin" / "busybox", root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    names = [f"drivers/{name}" for name in DISK_MODULES]
    copy_modules(tree / "usr" / "lib" / "modules" / kernel_version(tree), names, root / "modules")
    source = Path(__file__).parent / "guest" / "tiny" / "initramfs-init.sh"
    shutil.copy(source, root / "init")
    (root / "init").chmod(0o755)
    output.write_bytes(archive(root))
    shutil.rmtree(root)


def archive(root: Path) -> bytes:
    """Return the folder as a cpio archive in the kernel's format (initramfs buffer format)."""
    paths = sorted(root.rglob("*"))
    entries = [_entry(i, path, root) for i, path in enumerate(paths, 1)]
    return b"".join([*entries, _record("TRAILER!!!", 0, 0, b"")])


def _entry(number: int, path: Path, root: Path) -> bytes:
    mode = path.lstat().st_mode
    data = b""
    if stat.S_ISLNK(mode):
        data = str(path.readlink()).encode()
    elif stat.S_ISREG(mode):
        data = path.read_bytes()
    return _record(str(path.relative_to(root)), number, mode, data)


def _record(name: str, number: int, mode: int, data: bytes) -> bytes:
    """Return one record: thirteen fields of eight hexadecimal digits, padded to four bytes."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)

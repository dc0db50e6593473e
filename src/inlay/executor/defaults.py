"""What every step finds around itself: docker's and BuildKit's defaults, as plain data.

BuildKit: executor/oci/spec_linux.go and containerd's default spec, which it starts from.
"""

from __future__ import annotations

from inlay.system.privileges import is_among, mapped_groups

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
)
CAPABILITY_NUMBERS = {name: number for number, name in enumerate(_CAPABILITIES.split())}

DEFAULT_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
)

READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# Character devices below /dev: (major, minor).
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}

# What `--security=insecure` adds where the host has it (BuildKit: util/entitlements/security).
INSECURE_DEVICES = (
    "kmsg", "cuse", "fuse", "kvm", "net/tun", "loop-control", *(f"loop{number}" for number in range(8)),
)  # fmt: skip

DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}

DEV_OPTIONS = (("mode", "755"), ("size", "65536k"))
_TTY_GROUP = 5
PTS_OPTIONS = (("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"))


def pts_options() -> tuple[tuple[str, str], ...]:
    """The options of `/dev/pts`, without its group where that does not exist for this process."""
    exists = is_among(_TTY_GROUP, mapped_groups())
    return (*PTS_OPTIONS, ("gid", str(_TTY_GROUP))) if exists else PTS_OPTIONS


def capability_mask(names: list[str]) -> int:
    """`1 << number` for each of `names` (without CAP_), added up."""
    return sum(1 << CAPABILITY_NUMBERS[name] for name in names)

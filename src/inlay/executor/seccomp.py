"""docker's default seccomp profile, as BuildKit applies it: which system calls a step may make.

Two forms of one rule: the profile of the OCI runtime spec, which lists what is allowed, and a program for
the kernel, which is made from what is denied. What the profile does not know yet, later than `_NEWEST`, is
"not implemented" to a step, so that programs fall back to what came before. Holds for steps with docker's
default capabilities; the others run without a filter.
"""

from __future__ import annotations

import struct
from functools import cache


def _names(text: str) -> list[str]:
    return text.split()


def _numbers(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (entry.split("=") for entry in text.split())}


ALLOWED = _names(
    """
    _llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod
    chown chown32 chroot clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
    fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv
    futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
    getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid
    getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
    getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat
    listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise
    map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
    mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64
    mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64
    preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64
    ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
    rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64
    statfs statfs64 statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill
    truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat utimensat_time64
    utimes vfork vmsplice wait4 waitid waitpid write writev
    """
)
ALLOWED_ON_ARM = _names("arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls")

# What is left: system calls and their numbers on each architecture; from 424 on they are the same on all.
_DENIED_EVERYWHERE = _numbers(
    """
    io_uring_setup=425 io_uring_enter=426 io_uring_register=427 open_tree=428 move_mount=429 fsopen=430
    fsconfig=431 fsmount=432 fspick=433 pidfd_getfd=438 process_madvise=440 mount_setattr=442
    quotactl_fd=443 set_mempolicy_home_node=450 lsm_get_self_attr=459 lsm_set_self_attr=460
    lsm_list_modules=461
    """
)
_DENIED = {
    "x86_64": _numbers(
        """
        syslog=103 uselib=134 ustat=136 sysfs=139 vhangup=153 pivot_root=155 _sysctl=156 acct=163
        settimeofday=164 mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 sethostname=170
        setdomainname=171 iopl=172 ioperm=173 create_module=174 init_module=175 delete_module=176
        get_kernel_syms=177 query_module=178 quotactl=179 nfsservctl=180 getpmsg=181 putpmsg=182
        afs_syscall=183 tuxcall=184 security=185 lookup_dcookie=212 clock_settime=227 vserver=236
        mbind=237 set_mempolicy=238 get_mempolicy=239 kexec_load=246 add_key=248 request_key=249
        keyctl=250 migrate_pages=256 unshare=272 move_pages=279 perf_event_open=298 fanotify_init=300
        open_by_handle_at=304 setns=308 kcmp=312 finit_module=313 kexec_file_load=320 bpf=321
        userfaultfd=323 uprobe=336
        """
    ),
    "i386": _numbers(
        """
        break=17 oldstat=18 mount=21 umount=22 stime=25 oldfstat=28 stty=31 gtty=32 nice=34 ftime=35
        prof=44 signal=48 acct=51 umount2=52 lock=53 mpx=56 ulimit=58 oldolduname=59 ustat=62 sigaction=67
        sgetmask=68 ssetmask=69 sigsuspend=72 sigpending=73 sethostname=74 settimeofday=79 oldlstat=84
        uselib=86 swapon=87 reboot=88 readdir=89 profil=98 ioperm=101 syslog=103 olduname=109 iopl=110
        vhangup=111 idle=112 vm86old=113 swapoff=115 setdomainname=121 create_module=127 init_module=128
        delete_module=129 get_kernel_syms=130 quotactl=131 bdflush=134 sysfs=135 afs_syscall=137
        _sysctl=149 vm86=166 query_module=167 nfsservctl=169 getpmsg=188 putpmsg=189 pivot_root=217
        lookup_dcookie=253 clock_settime=264 vserver=273 mbind=274 get_mempolicy=275 set_mempolicy=276
        kexec_load=283 add_key=286 request_key=287 keyctl=288 migrate_pages=294 unshare=310 move_pages=317
        perf_event_open=336 fanotify_init=338 open_by_handle_at=342 setns=346 kcmp=349 finit_module=350
        bpf=357 userfaultfd=374 clock_settime64=404
        """
    ),
    "aarch64": _numbers(
        """
        lookup_dcookie=18 umount2=39 mount=40 pivot_root=41 nfsservctl=42 vhangup=58 quotactl=60 acct=89
        unshare=97 kexec_load=104 init_module=105 delete_module=106 clock_settime=112 syslog=116
        reboot=142 sethostname=161 setdomainname=162 settimeofday=170 add_key=217 request_key=218
        keyctl=219 swapon=224 swapoff=225 mbind=235 get_mempolicy=236 set_mempolicy=237 migrate_pages=238
        move_pages=239 perf_event_open=241 fanotify_init=262 open_by_handle_at=265 setns=268 kcmp=272
        finit_module=273 bpf=280 userfaultfd=282 kexec_file_load=294
        """
    ),
    "arm": _numbers(
        """
        mount=21 nice=34 acct=51 umount2=52 ustat=62 sigaction=67 sigsuspend=72 sigpending=73
        sethostname=74 settimeofday=79 uselib=86 swapon=87 reboot=88 syslog=103 vhangup=111 swapoff=115
        setdomainname=121 init_module=128 delete_module=129 quotactl=131 bdflush=134 sysfs=135 _sysctl=149
        nfsservctl=169 pivot_root=218 lookup_dcookie=249 clock_settime=262 pciconfig_iobase=271
        pciconfig_read=272 pciconfig_write=273 add_key=309 request_key=310 keyctl=311 vserver=313
        mbind=319 get_mempolicy=320 set_mempolicy=321 unshare=337 move_pages=344 kexec_load=347
        perf_event_open=364 fanotify_init=367 open_by_handle_at=371 setns=375 kcmp=378 finit_module=379
        bpf=386 userfaultfd=388 migrate_pages=400 kexec_file_load=401 clock_settime64=404
        """
    ),
}

_NEWEST = 466
_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028}
# The architectures whose programs a machine runs, its own first.
_RUNS = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}
_CONDITIONAL = {
    "x86_64": {"clone": 56, "socket": 41, "personality": 135},
    "i386": {"clone": 120, "socket": 359, "personality": 136},
    "aarch64": {"clone": 220, "socket": 198, "personality": 92},
    "arm": {"clone": 120, "socket": 281, "personality": 136},
}
_CLONE3 = 435

_CLONE_NEW_ANY = 0x7E020000  # every namespace
_AF_ALG, _AF_VSOCK = 38, 40
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_EPERM, _ENOSYS = 1, 38
_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_FROM, _JUMP_ANY_BIT, _RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16

_Program = list[tuple[int, int, int, int]]  # code, jump if true, jump if false, constant

_ALLOW: _Program = [(_RETURN, 0, 0, 0x7FFF0000)]
_DENY: _Program = [(_RETURN, 0, 0, 0x00050000 | _EPERM)]
_NOT_IMPLEMENTED: _Program = [(_RETURN, 0, 0, 0x00050000 | _ENOSYS)]


@cache
def filter_program(machine: str) -> bytes:
    """The filter as BPF instructions of 8 bytes for `machine` (as uname says it); empty for others than
    x86_64 and aarch64, where there is none."""
    if machine not in _RUNS:
        return b""
    program: _Program = [(_LOAD, 0, 0, _AT_ARCHITECTURE)]
    for architecture in _RUNS[machine]:
        section = [(_LOAD, 0, 0, _AT_NUMBER), *_search(_decisions(architecture))]
        program += [(_JUMP_EQUAL, 1, 0, _AUDIT_ARCH[architecture]), (_JUMP, 0, 0, len(section)), *section]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program + _DENY)


def _decisions(architecture: str) -> list[tuple[int, _Program]]:
    """What to do from which number on, in order."""
    special = dict.fromkeys(_DENIED_EVERYWHERE.values(), _DENY)
    special |= dict.fromkeys(_DENIED[architecture].values(), _DENY)
    special[_CLONE3] = _NOT_IMPLEMENTED
    special |= {_CONDITIONAL[architecture][name]: program for name, program in _argument_checks().items()}
    decisions: list[tuple[int, _Program]] = [(0, _ALLOW)]
    for number in sorted(special):
        if decisions[-1][0] == number:
            decisions.pop()
        if not decisions or decisions[-1][1] is not special[number]:
            decisions.append((number, special[number]))
        decisions.append((number + 1, _ALLOW))
    return [*decisions, (_NEWEST + 1, _NOT_IMPLEMENTED)]


def _argument_checks() -> dict[str, _Program]:
    load = (_LOAD, 0, 0, _AT_FIRST_ARGUMENT)
    families = [(_JUMP_EQUAL, 0, 1, family) for family in (_AF_ALG, _AF_VSOCK)]
    personalities = [(_JUMP_EQUAL, 0, 1, value) for value in _PERSONALITIES]
    return {
        "clone": [load, (_JUMP_ANY_BIT, 0, 1, _CLONE_NEW_ANY), *_DENY, *_ALLOW],
        "socket": [load, *(step for test in families for step in (test, *_DENY)), *_ALLOW],
        "personality": [load, *(step for test in personalities for step in (test, *_ALLOW)), *_DENY],
    }


def _search(decisions: list[tuple[int, _Program]]) -> _Program:
    """A binary search: what is loaded decides among `decisions`."""
    if len(decisions) == 1:
        return decisions[0][1]
    middle = len(decisions) // 2
    below, above = _search(decisions[:middle]), _search(decisions[middle:])
    return [(_JUMP_FROM, len(below), 0, decisions[middle][0]), *below, *above]


def runtime_profile(machine: str) -> dict[str, object] | None:
    """`linux.seccomp` of the OCI runtime spec; None for other machines than x86_64 and aarch64."""
    if machine not in _RUNS:
        return None
    architectures = ["X86_64", "X86"] if machine == "x86_64" else ["AARCH64", "ARM"]
    extra = ["arch_prctl", "modify_ldt"] if machine == "x86_64" else ALLOWED_ON_ARM
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": [f"SCMP_ARCH_{name}" for name in architectures],
        "syscalls": [
            {"names": [*ALLOWED, *extra], "action": "SCMP_ACT_ALLOW"},
            _rule("socket", _AF_ALG, "SCMP_CMP_LT"),
            _rule("socket", _AF_ALG + 1, "SCMP_CMP_EQ"),
            _rule("socket", _AF_VSOCK, "SCMP_CMP_GT"),
            *(_rule("personality", value, "SCMP_CMP_EQ") for value in _PERSONALITIES),
            _rule("clone", _CLONE_NEW_ANY, "SCMP_CMP_MASKED_EQ"),
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def _rule(name: str, value: int, comparison: str) -> dict[str, object]:
    return {
        "names": [name],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": value, "op": comparison}],
    }

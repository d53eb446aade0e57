"""The inner half of the sandbox: a script of its own, started as `python -I -S jail.py FD`.

Three kinds of process run this file. The *starter* waits on FD, one end of a socket pair, and forks
a launcher for each request: four descriptors, for the program's three streams and a channel. The
*launcher* reads the settings and the program from the channel. The *jail* starts the program in a
process of its own, watches its memory, and reports how it ended: lines of text on the channel,
`started`, then `exit CODE LIMIT` (`-` for no limit), or `error MESSAGE`. When the host says so or
goes away, both end.

There are two kinds of jail. With *namespaces* the jail is the launcher's child and process 1 of its
own: it builds the root and gives up every right; when it ends, the kernel ends everything else in
the namespace. Where these are forbidden, *landlock* binds the program to its folder and the Python
installation, and a stricter system call filter leaves it no second process, no socket and no signal
to send; the jail is the launcher itself.

Only the standard library. `os.unshare` exists from Python 3.12 on, so the system calls go through
`ctypes`.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

NOBODY = 65534
SIGKILL, SIGXCPU = 9, 24

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACES = (
    CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
AF_UNIX = 1
CLONE_THREAD = 0x00010000
EPERM, ENOSYS = 1, 38

SYS_MOUNT_SETATTR = 442  # the same number on every architecture
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_NEEDED = 3  # the first version that covers truncation (Linux 6.2)
# Rights on files: execute 1, write 2, read 4; list a folder 8; remove a file 32; make one 256;
# truncate 1 << 14; ioctl on a device 1 << 15 (version 5).
# Its own files a program cannot remove: what is gone from the folder could not be counted.
SEE, USE_DEVICE, OWN = 1 | 4 | 8, 2 | 4, 2 | 4 | 8 | 256 | 1 << 14
MOST_FILES, LEAST_BYTES = 4096, 4096  # in the folder; of a file, for counting
ON_A_FILE = 1 | 2 | 4 | 1 << 14
POLL_S = 0.02
# The kernel holds processor time to its limit in ticks, each charged whole to whoever runs at its
# end, and tells it exactly afterwards: on a busy machine 14 % less were seen.
CPU_SHARE = 0.75

# Number of each system call on (x86_64, aarch64), from the kernel's unistd headers; None: absent.
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "inotify_init": (253, 26),  # counted by user, and few
    "inotify_init1": (294, 26),
    "io_setup": (206, 0),  # counted over the whole machine
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mknod": (133, 33),  # 33 is mknodat, the only one there is on aarch64
    "mknodat": (259, 33),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setns": (308, 268),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),  # holds memory that is no process'
}
# Without namespaces: what reaches beyond this process and asks for no path that Landlock could
# deny. Other processes; and modes, owners, times and attributes of files.
OUTWARD: dict[str, tuple[int | None, int | None]] = {
    "bind": (49, 200),
    "chmod": (90, 53),  # 53 is fchmodat, the only one there is on aarch64
    "chown": (92, 54),
    "connect": (42, 203),
    "fallocate": (285, 47),  # does not heed the limit of a file's size
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fgetxattr": (193, 10),
    "file_getattr": (468, 468),
    "file_setattr": (469, 469),
    "flistxattr": (196, 13),
    "flock": (73, 32),
    "fork": (57, None),
    "fremovexattr": (199, 16),
    "fsetxattr": (190, 7),
    "futimesat": (261, 88),
    "getxattr": (191, 8),
    "getxattrat": (464, 464),
    "inotify_add_watch": (254, 27),
    "ioprio_set": (251, 30),
    "kill": (62, 129),
    "lchown": (94, 54),
    "lgetxattr": (192, 9),
    "listmount": (458, 458),
    "listxattr": (194, 11),
    "listxattrat": (465, 465),
    "llistxattr": (195, 12),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "openat2": (437, 437),  # its flags cannot be seen
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "setpriority": (141, 140),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "statmount": (457, 457),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "utime": (132, 88),
    "utimensat": (280, 88),
    "utimes": (235, 88),
    "vfork": (58, None),
}
CLONE, CLONE3, IOCTL, FCNTL = (56, 220), (435, 435), (16, 29), (72, 25)
SOCKET, SOCKETPAIR = (41, 198), (53, 199)
PRCTL, PRLIMIT = (157, 167), (302, 261)
OPEN: tuple[tuple[int | None, int | None], ...] = ((2, None), (257, 56))  # open, openat
# What may be done to an open file: no leases, owners or signals, which reach other processes.
FCNTL_COMMANDS = (*range(8), 36, 37, 38, 1030, 1031, 1032, 1034)
# What may be asked of a device or file where no mount is read-only: sizes, modes of waiting.
IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
O_TMPFILE = 0x400000
PIVOT_ROOT = NUMBERS["pivot_root"]
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH

libc = ctypes.CDLL(None, use_errno=True)


class JailError(Exception):
    """The jail could not be built; the message says which step failed and why."""


def check(result: int, step: str) -> int:
    """Raise for a system call that returned -1."""
    if result < 0:
        raise JailError(f"{step}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, value: int, argument: Any = 0) -> None:
    """Change an attribute of this process."""
    check(libc.prctl(option, value, argument, 0, 0), f"prctl({option})")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """The mount system call; a failure names the target."""
    encoded = [None if s is None else os.fsencode(s) for s in (source, target, kind, data)]
    result = libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    check(result, f"mount {target}")


def seal(path: str, attributes: int, flags: int = AT_RECURSIVE) -> None:
    """Add mount attributes (read-only and the like) to what is mounted at a path."""
    data = struct.pack("QQQQ", attributes, 0, 0, 0)
    result = libc.syscall(
        SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(path), flags, data, ctypes.c_size_t(len(data))
    )
    check(result, f"mount_setattr {path} (it needs Linux 5.12)")


def machine() -> tuple[int, int]:
    """Column of the call numbers, and the architecture's name for the system call filter."""
    name = os.uname().machine
    if name not in MACHINES or sys.maxsize < 2**32:
        raise JailError(f"no system call filter is known for the machine {name!r}")
    return MACHINES[name]


def call_filter(*, alone: bool = False) -> bytes:
    """The seccomp program: what a plain Python program never needs, and an attack might.

    Namespaces, mounts, tracing, kernel keys and rings, shared memory outside the count, sockets
    other than Unix ones (`AF_VSOCK` is not bound to the network namespace), typing into a terminal.
    `clone3` is "not implemented", so the C library falls back to `clone`, whose flags can be seen.

    Args:
        alone: no namespace stands around the program: also no other process, no socket at all, no
            signal, and no change of what Landlock does not cover.
    """
    column, arch = machine()
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, errno = 0x7FFF0000, 0x80000000, 0x00050000
    number, arch_field, argument = 0, 4, (16, 24, 32)
    deny, permit = (give, 0, 0, errno | EPERM), (give, 0, 0, allow)
    lines = [(load, 0, 0, arch_field), (equal, 1, 0, arch), (give, 0, 0, kill)]
    lines += [(load, 0, 0, number)]
    if column == 0:  # the x32 calls have numbers of their own
        lines += [(at_least, 0, 1, 0x40000000), (give, 0, 0, errno | ENOSYS)]
    lines += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, errno | ENOSYS)]
    for numbers in [*NUMBERS.values(), *(OUTWARD.values() if alone else ())]:
        if (refused := numbers[column]) is not None:
            lines += [(equal, 0, 1, refused), deny]
    lines += _among(FCNTL[column], argument[1], FCNTL_COMMANDS, deny, permit)
    # Of clone; the flag for a namespace of times stands in clone3 alone.
    namespaces = NAMESPACES | CLONE_NEWUSER
    if alone:
        for numbers, place in zip(OPEN, argument[1:], strict=True):
            if (call := numbers[column]) is not None:  # a file without a name is not counted
                lines += [(equal, 0, 4, call), (load, 0, 0, place)]
                lines += [(any_bit, 0, 1, O_TMPFILE), deny, permit]
        lines += _among(IOCTL[column], argument[1], IOCTL_REQUESTS, deny, permit)
        lines += [(equal, 0, 5, CLONE[column]), (load, 0, 0, argument[0])]
        lines += [(any_bit, 1, 0, namespaces), (any_bit, 1, 0, CLONE_THREAD), deny, permit]
        lines += [(equal, 0, 4, PRLIMIT[column]), (load, 0, 0, argument[0])]  # only one's own
        lines += [(equal, 0, 1, 0), permit, deny]
        lines += [(equal, 0, 4, PRCTL[column]), (load, 0, 0, argument[0])]
        lines += [(equal, 0, 1, PR_SET_PDEATHSIG), deny, permit]
    lines += [(equal, 0, 4, CLONE[column]), (load, 0, 0, argument[0])]
    lines += [(any_bit, 0, 1, namespaces), deny, permit]
    lines += [(equal, 0, 5, IOCTL[column]), (load, 0, 0, argument[1])]
    lines += [(equal, 1, 0, TIOCSTI), (equal, 0, 1, TIOCLINUX), deny, permit]
    for numbers in (SOCKET, SOCKETPAIR):
        lines += [(equal, 0, 4, numbers[column]), (load, 0, 0, argument[0])]
        lines += [(equal, 1, 0, AF_UNIX), deny, permit]
    lines += [permit]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


Line = tuple[int, int, int, int]


def _among(call: int, place: int, values: tuple[int, ...], deny: Line, permit: Line) -> list[Line]:
    """Lines that let a call pass if an argument is one of some values, and refuse it otherwise."""
    load, equal = 0x20, 0x15
    lines: list[Line] = [(equal, 0, 2 * len(values) + 2, call), (load, 0, 0, place)]
    for value in values:
        lines += [(equal, 0, 1, value), permit]
    return [*lines, deny]


def install_filter(*, alone: bool = False) -> None:
    """Bind this process, and all it will start, to the system call filter."""
    program = call_filter(alone=alone)
    text = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(text))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header, len(header)))


def landlock_version() -> int:
    """Which Landlock this kernel has: at least `LANDLOCK_NEEDED`."""
    version = int(libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    check(version, "Landlock")
    if version < LANDLOCK_NEEDED:
        raise JailError(f"Landlock has version {version}, {LANDLOCK_NEEDED} is needed (Linux 6.2)")
    return version


def restrict_to(readable: list[str], hidden: list[str], folder: str) -> None:
    """Bind this process to some paths: reading Python and the devices, writing one flat folder."""
    version = landlock_version()
    files = (1 << (16 if version >= 5 else 15)) - 1
    attributes = struct.pack("QQQ", files, 3, 3)  # no TCP; no abstract socket or signal beyond here
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(size), 0)
    check(rules, "Landlock's rules")

    def allow(path: str, rights: int) -> None:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(path):
                rights &= ON_A_FILE
            rule = struct.pack("=Qi", rights, fd)
            check(libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0), f"Landlock's rule for {path}")
        finally:
            os.close(fd)

    def show(path: str) -> None:
        if path in hidden:
            return
        if not any(h.startswith(path + "/") for h in hidden):
            allow(path, SEE)
            return
        allow(path, 8)  # its names, to find modules by
        for entry in os.scandir(path):
            if not entry.is_symlink():  # what a link leads to has its own rule, or none
                show(entry.path)

    for path in dict.fromkeys(map(os.path.realpath, readable)):
        show(path)
    for name in ("null", "zero", "full", "random", "urandom"):
        allow(f"/dev/{name}", USE_DEVICE)
    allow(folder, OWN)
    check(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "Landlock")
    os.close(rules)


def drop_capabilities() -> None:
    """Give up every capability; with "no new privileges" set, none comes back."""
    header = struct.pack("Ii", 0x20080522, 0)
    check(libc.capset(header, struct.pack("6I", *[0] * 6)), "capset")


def is_mapped(uid: int) -> bool:
    """Whether a uid means anybody in the present user namespace."""
    with open("/proc/self/uid_map") as f:
        ranges = [[int(n) for n in line.split()] for line in f]
    return any(first <= uid < first + count for first, _, count in ranges)


def take_namespaces() -> bool:
    """Enter new namespaces; the process namespace begins with the next fork.

    Returns:
        Whether the uid is still to be changed. Root needs no user namespace to build the jail, but
        a program may not run as the kernel's root; anybody else is "nobody" in a namespace already.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0 and is_mapped(NOBODY):
        check(libc.unshare(NAMESPACES), "unshare")
        return True
    check(libc.unshare(NAMESPACES | CLONE_NEWUSER), "unshare with a user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {uid} 1"),
        ("gid_map", f"{NOBODY} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as f:
            f.write(text)
    return False


def build_root(settings: dict[str, Any]) -> None:
    """Make a root of its own in memory, holding Python alone, and move into it."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=16m,nr_inodes=4096")
    os.chdir("/tmp")
    os.mkdir("host")
    column, _ = machine()
    check(libc.syscall(PIVOT_ROOT[column], b".", b"host"), "pivot_root")
    os.chdir("/")
    for path in settings["bind"]:
        expose(path)
    hidden = [path for path in settings["hide"] if os.path.isdir(path)]
    for path in hidden:
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=4k,nr_inodes=16")
    os.mkdir("/dev")
    for name in ("null", "zero", "full", "random", "urandom"):
        touch(f"/dev/{name}")
        mount(f"/host/dev/{name}", f"/dev/{name}", None, MS_BIND)
    os.symlink("/proc/self/fd", "/dev/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.mkdir("/proc")
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", "/proc", "proc", flags, "subset=pid")
    os.mkdir("/tmp")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,{settings['tmp']}")
    for path in settings["packages"]:  # which may lie in a hidden folder, or in the host's /tmp
        expose(path)
    for path in hidden:
        seal(path, MOUNT_ATTR_RDONLY, flags=0)
    with open("/program.py", "wb") as f:
        f.write(settings["program"])
    check(libc.umount2(b"/host", MNT_DETACH), "umount the host's files")
    os.rmdir("/host")
    seal("/", MOUNT_ATTR_RDONLY, flags=0)


def expose(path: str) -> None:
    """Show one path of the host, read-only, at the same place; links are copied as links."""
    source = f"/host{path}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
        return
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    else:
        touch(path)
    mount(source, path, None, MS_BIND | MS_REC)
    seal(path, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)


def touch(path: str) -> None:
    """Make an empty file to mount something over."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o644))


def become_nobody() -> None:
    """Change uid for good, then enter a user namespace: its count of processes is its own."""
    for fd in (0, 1, 2):
        os.fchown(fd, NOBODY, NOBODY)  # pipes belong to their maker; /dev/stdin opens them anew
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    check(libc.unshare(CLONE_NEWUSER), "unshare of the user namespace")


def start_program(settings: dict[str, Any], channel: int) -> NoReturn:
    """Limit this process, and become the program."""
    try:
        os.setsid()
        alone = bool(settings["folder"])
        if alone:
            drop_capabilities()
            prctl(PR_SET_PDEATHSIG, SIGKILL)
            if os.getppid() != settings["jail"]:
                raise JailError("the jail was lost")
            readable = [*settings["bind"], *settings["packages"]]
            restrict_to(readable, settings["hide"], settings["folder"])
        for name, soft, hard in settings["rlimits"]:
            resource.setrlimit(name, (soft, hard))
        os.chdir(settings["folder"] or "/tmp")
        install_filter(alone=alone)
        os.write(channel, b"started\n")
        python = settings["python"]
        os.execve(python, [python, *settings["flags"]], settings["environ"])
    except BaseException as e:
        os.write(channel, f"error {e}\n".encode())
    finally:
        os._exit(127)


def inmates() -> list[str]:
    """Every process of this namespace but process 1."""
    return [p for p in os.listdir("/proc") if p.isdigit() and p != "1"]


RSS, PSS = (b"RssAnon:", b"RssShmem:"), (b"Pss_Anon:", b"Pss_Shmem:")


def memory_used(pids: list[str]) -> int:
    """Bytes of memory that some processes hold, pages shared by a fork counted each time."""
    return sum(of_any_thread(p, "status", RSS) for p in pids) << 10


def memory_used_exactly(pids: list[str]) -> int:
    """The same with shared pages divided between their holders: slower, so asked second."""
    kib = 0
    for p in pids:
        kib += of_any_thread(p, "smaps_rollup", PSS) or of_any_thread(p, "status", RSS)
    return kib << 10


def of_any_thread(pid: str, file: str, fields: tuple[bytes, ...]) -> int:
    """`field_of` a process, by another thread's file where its first one has ended."""
    if (value := field_of(pid, file, fields)) > 0:
        return value
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return 0
    for thread in threads[:8]:
        if (value := field_of(f"{pid}/task/{thread}", file, fields)) > 0:
            return value
    return 0


def field_of(pid: str, file: str, fields: tuple[bytes, ...]) -> int:
    """The sum of some fields of a file of `/proc`, as it stands there."""
    try:
        with open(f"/proc/{pid}/{file}", "rb") as f:
            return sum(int(line.split()[1]) for line in f if line.startswith(fields))
    except OSError:  # gone meanwhile, or not ours to read
        return 0


def stored(folder: str) -> int:
    """Bytes of the files in a flat folder; more than any limit if they are too many."""
    total = 0
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_FILES:
                return 1 << 62
            try:
                total += max(entry.stat(follow_symlinks=False).st_blocks << 9, LEAST_BYTES)
            except OSError:  # gone meanwhile
                continue
    return total


def exceeded(program: int, settings: dict[str, Any]) -> str | None:
    """The limit that is passed at this moment, of those that the kernel does not watch itself."""
    pids = [str(program)] if settings["folder"] else inmates()
    limit = settings["memory"]
    if settings["folder"] and field_of(pids[0], "status", (b"Threads:",)) > settings["threads"]:
        return "processes"
    if memory_used(pids) > limit and memory_used_exactly(pids) > limit:
        return "memory"
    if settings["folder"] and stored(settings["folder"]) > settings["stored"]:
        return "files"
    return None


def out_of_time(code: int, spent_s: float, cpu_s: float) -> bool:
    """Whether a program that ended with `code` was ended for its processor time."""
    return code in (-SIGKILL, -SIGXCPU) and spent_s >= CPU_SHARE * cpu_s


def supervise(program: int, settings: dict[str, Any], told: list[int]) -> tuple[int, str]:
    """Reap everything until the program itself ends, is over a limit, or one of `told` speaks."""
    ended = os.pidfd_open(program)
    ready: list[int] = []
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError as e:
            raise JailError("the program's process was lost") from e
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            spent_s = usage.ru_utime + usage.ru_stime
            return code, "cpu" if out_of_time(code, spent_s, settings["cpu_s"]) else "-"
        if pid:
            continue
        limit = "-" if set(ready) & set(told) else exceeded(program, settings)
        if limit is not None:
            os.kill(program, SIGKILL)  # its children, if it has any, end with the namespace
            os.waitpid(program, 0)
            return -SIGKILL, limit
        ready = select.select([ended, *told], [], [], POLL_S)[0]


def jail(settings: dict[str, Any], channel: int, change_uid: bool) -> None:
    """Process 1 of the namespace, from its first step to its report."""
    libc.sethostname(b"sandbox", 7)
    build_root(settings)
    if change_uid:
        become_nobody()
    drop_capabilities()
    prctl(PR_SET_PDEATHSIG, SIGKILL)  # after the change of uid, which clears it
    guard(settings, channel, [])


def fence(settings: dict[str, Any], channel: int) -> None:
    """The jail where there are no namespaces: the launcher itself, with the program its child.

    The host's word ends the program by its number, which is the same whatever thread of it starts
    another Python; where the host is gone, so is the program's folder.
    """
    landlock_version()
    settings["jail"] = os.getpid()
    with open(f"{settings['folder']}/program.py", "xb") as f:
        f.write(settings["program"])
    guard(settings, channel, [channel])
    if select.select([channel], [], [], 0)[0] and not os.read(channel, 1):
        for entry in os.scandir(settings["folder"]):
            os.unlink(entry.path)
        os.rmdir(settings["folder"])


def guard(settings: dict[str, Any], channel: int, told: list[int]) -> None:
    """Start the program, see it to its end, and report."""
    program = os.fork()
    if program == 0:
        start_program(settings, channel)
    quiet(os.open("/dev/null", os.O_RDWR))
    code, limit = supervise(program, settings, told)
    try:
        os.write(channel, f"exit {code} {limit}\n".encode())
    except BrokenPipeError:  # the host is gone
        return


def quiet(null: int) -> None:
    """Let go of the program's streams, so that they end when the program ends."""
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def launch(settings: dict[str, Any], channel: int) -> None:
    """Make the jail, wait for its end, and hasten it when the host says so or is gone."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    with open("/proc/self/oom_score_adj", "w") as f:
        f.write("1000")  # where memory runs out, programs go first
    if settings["folder"]:
        fence(settings, channel)
        return
    change_uid = take_namespaces()
    null = os.open("/dev/null", os.O_RDWR)  # now: the child changes the root of this process too
    child = os.fork()
    if child == 0:
        try:
            jail(settings, channel, change_uid)
        except BaseException as e:
            os.write(channel, f"error {e}\n".encode())
        finally:
            os._exit(0)
    quiet(null)
    ended = os.pidfd_open(child)
    readable, _, _ = select.select([channel, ended], [], [])
    if ended not in readable:
        os.kill(child, SIGKILL)
    os.waitpid(child, 0)


def read_settings(channel: int) -> dict[str, Any]:
    """What the host asks for: eight bytes of length, then the settings."""

    def exactly(n: int) -> bytes:
        parts = []
        while n:
            part = os.read(channel, n)
            if not part:
                raise JailError("the host went away")
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    (length,) = struct.unpack("Q", exactly(8))
    loaded: dict[str, Any] = marshal.loads(exactly(length))
    return loaded


def serve_one(fds: list[int]) -> None:
    """Be a launcher: take the streams as one's own; every failure is reported to the host."""
    stdin, stdout, stderr, channel = fds
    os.set_inheritable(channel, False)  # `recv_fds` of Python 3.11 does not heed its flags
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, number)
            os.close(fd)
        launch(read_settings(channel), channel)
    except BaseException as e:
        os.write(channel, f"error {e}\n".encode())


def main() -> None:
    """Run as the starter until the host is gone; 0, 1 and 2 are open, so none that comes in."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for launchers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        request, fds, _, _ = socket.recv_fds(control, 1, 4)
        if not request:
            return
        if os.fork() == 0:
            control.close()
            serve_one(fds)
            os._exit(0)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()

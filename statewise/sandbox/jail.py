"""The inner half of the sandbox: a script of its own, started as `python -I -S jail.py FD`.

Two processes run this file. The *launcher* takes new namespaces, forks, and waits: it kills the
jail when the host says so or goes away. The *jail* is process 1 of its namespace: it builds the
root, gives up every right, starts the program in a third process, watches its memory, and reports
how it ended; when process 1 ends, the kernel ends everything else in the namespace.

FD is one end of a socket pair. The host sends the settings and the program; what comes back is
lines of text: `started`, then `exit CODE LIMIT` (`-` for no limit), or `error MESSAGE`.

Only the standard library, and little of it: every import here is paid for by every program.
`os.unshare` exists from Python 3.12 on, so the system calls go through `ctypes`.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False  # the `typing` and `signal` modules would take as long to import as the rest
if TYPE_CHECKING:
    from typing import Any, NoReturn

NOBODY = 65534
SIGINT, SIGKILL, SIGXCPU, SIG_DFL = 2, 9, 24, 0

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_NEWTIME = 0x00000080
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
EPERM, ENOSYS = 1, 38

SYS_MOUNT_SETATTR = 442  # the same number on every architecture
POLL_S = 0.02
CPU_TICK_S = 0.1  # the kernel counts processor time in ticks, not exactly

# Number of each system call on (x86_64, aarch64), from the kernel's unistd headers; None: absent.
NUMBERS: dict[str, tuple[int | None, int]] = {
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
}
CLONE, CLONE3, IOCTL, SOCKET = (56, 220), (435, 435), (16, 29), (41, 198)
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


def call_filter() -> bytes:
    """The seccomp program: what a plain Python program never needs, and an attack might.

    Namespaces, mounts, tracing, kernel keys and rings, shared memory outside the count, sockets
    other than Unix ones (`AF_VSOCK` is not bound to the network namespace), typing into a terminal.
    `clone3` is "not implemented", so the C library falls back to `clone`, whose flags can be seen.
    """
    column, arch = machine()
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, errno = 0x7FFF0000, 0x80000000, 0x00050000
    number, arch_field, argument = 0, 4, (16, 24)
    lines = [(load, 0, 0, arch_field), (equal, 1, 0, arch), (give, 0, 0, kill)]
    lines += [(load, 0, 0, number)]
    if column == 0:  # the x32 calls have numbers of their own
        lines += [(at_least, 0, 1, 0x40000000), (give, 0, 0, errno | ENOSYS)]
    lines += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, errno | ENOSYS)]
    for numbers in NUMBERS.values():
        lines += [(equal, 0, 1, numbers[column] or 0), (give, 0, 0, errno | EPERM)]
    everything = NAMESPACES | CLONE_NEWUSER | CLONE_NEWTIME
    lines += [(equal, 0, 4, CLONE[column]), (load, 0, 0, argument[0])]
    # The low byte of clone's flags is the exit signal: CLONE_NEWTIME stands there for clone3 only.
    lines += [(any_bit, 0, 1, everything & ~0xFF), (give, 0, 0, errno | EPERM), (give, 0, 0, allow)]
    lines += [(equal, 0, 5, IOCTL[column]), (load, 0, 0, argument[1])]
    lines += [(equal, 1, 0, TIOCSTI), (equal, 0, 1, TIOCLINUX), (give, 0, 0, errno | EPERM)]
    lines += [(give, 0, 0, allow)]
    lines += [(equal, 0, 3, SOCKET[column]), (load, 0, 0, argument[0])]
    lines += [(equal, 1, 0, AF_UNIX), (give, 0, 0, errno | EPERM)]
    lines += [(give, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def install_filter() -> None:
    """Bind this process, and all it will start, to the system call filter."""
    program = call_filter()
    text = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(text))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header, len(header)))


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
    for path in settings["hide"]:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,nr_inodes=2")
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
        for name, value in settings["rlimits"]:
            resource.setrlimit(name, (value, value))
        os.chdir("/tmp")
        install_filter()
        os.write(channel, b"started\n")
        python = settings["python"]
        os.execve(python, [python, *settings["flags"]], settings["environ"])
    except BaseException as e:
        os.write(channel, f"error {e}\n".encode())
    finally:
        os._exit(127)


def memory_used() -> int:
    """Bytes of memory that all processes but this one hold, pages shared by a fork counted once."""
    pids = [p for p in os.listdir("/proc") if p.isdigit() and p != "1"]
    return sum(memory_of(p, "status", (b"RssAnon:", b"RssShmem:")) for p in pids)


def memory_used_exactly() -> int:
    """The same with shared pages divided between their holders: slower, so asked second."""
    pids = [p for p in os.listdir("/proc") if p.isdigit() and p != "1"]
    total = 0
    for p in pids:
        total += memory_of(p, "smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:")) or memory_of(
            p, "status", (b"RssAnon:", b"RssShmem:")
        )
    return total


def memory_of(pid: str, file: str, fields: tuple[bytes, ...]) -> int:
    """The sum of some fields of a file of `/proc`, in bytes."""
    try:
        with open(f"/proc/{pid}/{file}", "rb") as f:
            return sum(int(line.split()[1]) << 10 for line in f if line.startswith(fields))
    except OSError:  # gone meanwhile, or not ours to read
        return 0


def supervise(program: int, settings: dict[str, Any]) -> tuple[int, str]:
    """Reap everything until the program itself ends or its memory is over the limit."""
    ended = os.pidfd_open(program)
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError as e:
            raise JailError("the program's process was lost") from e
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            spent = usage.ru_utime + usage.ru_stime
            out_of_time = code in (-SIGKILL, -SIGXCPU) and spent >= settings["cpu_s"] - CPU_TICK_S
            return code, "cpu" if out_of_time else "-"
        if pid:
            continue
        limit = settings["memory"]
        if memory_used() > limit and memory_used_exactly() > limit:
            return -SIGKILL, "memory"
        select.select([ended], [], [], POLL_S)


def jail(settings: dict[str, Any], channel: int, change_uid: bool) -> None:
    """Process 1 of the namespace, from its first step to its report."""
    libc.signal(SIGINT, SIG_DFL)  # without a handler, nobody inside can send it
    libc.sethostname(b"sandbox", 7)
    build_root(settings)
    if change_uid:
        become_nobody()
    drop_capabilities()
    prctl(PR_SET_PDEATHSIG, SIGKILL)  # after the change of uid, which clears it
    program = os.fork()
    if program == 0:
        start_program(settings, channel)
    quiet(os.open("/dev/null", os.O_RDWR))
    code, limit = supervise(program, settings)
    os.write(channel, f"exit {code} {limit}\n".encode())


def quiet(null: int) -> None:
    """Let go of the program's streams, so that they end when the program ends."""
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def launch(settings: dict[str, Any], channel: int) -> None:
    """Make the jail, wait for its end, and hasten it when the host says so or is gone."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
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


def main() -> None:
    """Run as the launcher; every failure is reported to the host."""
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)
    try:
        launch(read_settings(channel), channel)
    except BaseException as e:
        os.write(channel, f"error {e}\n".encode())


if __name__ == "__main__":
    main()

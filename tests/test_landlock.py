"""The sandbox without namespaces: one attack a test, one test for each line of its docstring."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from programs import (
    HELD_BY_A_THREAD,
    LIMITED,
    LIMITS_TOLD,
    SETTINGS,
    attempts,
    ends_with_its_launcher,
    processes_with,
    run,
)

from statewise import sandbox
from statewise.errors import SandboxError
from statewise.eval.functions import judge
from statewise.records import Function, Problem
from statewise.sandbox import Isolation, Limits, execute, installation, jail
from statewise.sandbox.confined import run_confined


def _refused() -> str:
    """Why this kernel cannot do it; empty if it can."""
    try:
        result = run_confined("landlock", "print(1)", b"", Limits())
    except SandboxError as e:
        return str(e)
    return "" if result.stdout == b"1\n" else str(result)


pytestmark = pytest.mark.skipif(bool(_refused()), reason=f"no Landlock here: {_refused()}")


@pytest.fixture(autouse=True)
def without_namespaces(monkeypatch):
    monkeypatch.setattr(execute, "isolation", lambda: Isolation("landlock", "for a test"))


def test_it_is_taken_where_namespaces_are_forbidden_and_says_why(monkeypatch):
    def confined(kind, *rest):
        if kind == "namespaces":
            raise SandboxError("unshare: Operation not permitted")
        return run_confined(kind, *rest)

    monkeypatch.undo()
    monkeypatch.setattr(execute, "run_confined", confined)
    offered = execute._offered.__wrapped__()
    assert offered.kind == "landlock"
    assert "namespaces: unshare: Operation not permitted" in offered.detail


def test_output_error_exit_code_and_input_arrive_as_they_are():
    result = run(
        "import sys; print(sys.stdin.read()); print('err', file=sys.stderr); sys.exit(7)",
        stdin=b"in",
    )
    assert (result.stdout, result.stderr, result.exit_code) == (b"in\n", b"err\n", 7)
    assert run("print(open('/dev/stdin').read())", stdin=b"in").stdout == b"in\n"


def test_the_standard_library_works():
    program = """
    import bisect, collections, ctypes, decimal, fractions, functools, heapq, json, math, random, re
    import sqlite3, statistics, threading
    out = []
    threads = [threading.Thread(target=out.append, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    print(sorted(out), quit)
    """
    result = run(program)
    assert result.stdout.startswith(b"[0, 1, 2, 3, 4, 5, 6, 7]"), result.stderr


def test_programs_run_side_by_side_from_threads():
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: run(f"print({i})"), range(16)))
    assert [r.stdout for r in results] == [b"%d\n" % i for i in range(16)]


def test_no_second_process_can_be_had():
    outcomes = attempts(
        "import os, subprocess, sys, multiprocessing",
        "os.fork()",
        "os.posix_spawn(sys.executable, ['x'], {})",
        "subprocess.run([sys.executable, '-c', ''])",
        "os.forkpty()",
    )
    assert set(outcomes) == {"PermissionError"}, outcomes


def test_a_file_next_to_the_test_cannot_be_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("expected")
    secret.chmod(0o666)
    outside = [str(secret), "/etc/passwd", "/proc/self/environ", "/proc/self/maps", __file__]
    outcomes = attempts(
        f"import os\nsecret = {str(secret)!r}",
        *[f"open({path!r}).read()" for path in outside],
        f"os.listdir({str(tmp_path)!r})",
        "os.link(secret, 'here')",
        "os.symlink(secret, 'here')",
        "os.rename(secret, 'here')",
        "os.truncate(secret, 0)",
        "os.remove(secret)",
        "open(secret, 'a')",
        "open(os.path.dirname(secret) + '/new', 'w')",
    )
    assert set(outcomes) <= {"PermissionError", "OSError"}, outcomes
    assert secret.read_text() == "expected"


def test_the_folder_of_another_program_is_out_of_reach(tmp_path):
    """Both have the same user's name."""
    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(
            run, "import os, time; open('mine', 'w').write(os.getcwd()); time.sleep(1.5)"
        )
        time.sleep(0.5)
        result = run(
            "import glob, os\nhere = os.path.dirname(os.getcwd())\n"
            "try: print(os.listdir(here))\nexcept PermissionError: print('refused')"
        )
        assert writer.result().exit_code == 0
    assert result.stdout == b"refused\n"


def test_installed_packages_cannot_be_read():
    program = """
    import sys
    sys.path += PATHS
    for name in ("pip", "pytest", "numpy"):
        try:
            __import__(name)
            print(name)
        except ImportError:
            pass
        except PermissionError:
            pass
    """
    assert run(program.replace("PATHS", repr(installation.hidden()))).stdout == b""


def test_its_own_folder_can_be_written_and_vanishes():
    result = run("import os\nopen('a', 'w').write('x'); print(os.listdir('.'))\nprint(os.getcwd())")
    names, folder = result.stdout.decode().splitlines()
    assert sorted(eval(names)) == ["a", "program.py"]
    assert not os.path.exists(folder)


def test_no_socket_of_any_family():
    outcomes = attempts(
        "import socket",
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_INET6)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.create_connection(('127.0.0.1', 1))",
        "socket.socketpair()",  # half of one could speak to any datagram socket by its path
    )
    assert set(outcomes) == {"PermissionError"}


def test_a_unix_socket_of_the_host_is_out_of_reach(tmp_path):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        program = f"import socket; socket.socket(socket.AF_UNIX).connect({str(tmp_path / 's')!r})"
        assert b"PermissionError" in run(program).stderr


def test_no_signal_reaches_anybody():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        outcomes = attempts(
            "import os, signal",
            f"os.kill({sleeper.pid}, 9)",
            f"os.kill({os.getpid()}, 0)",
            "os.killpg(0, 9)",
            "os.kill(-1, 9)",
            f"signal.pidfd_send_signal(os.pidfd_open({sleeper.pid}), 9)",
        )
        assert set(outcomes) <= {"PermissionError"}
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_no_other_process_is_changed_traced_or_read():
    pid = os.getpid()
    outcomes = attempts(
        "import ctypes, os, resource\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def call(name, *args):\n"
        "    if getattr(libc, name)(*args) < 0: raise OSError(ctypes.get_errno(), name)\n",
        f"resource.prlimit({pid}, resource.RLIMIT_CPU, (1, 1))",
        f"os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
        f"os.sched_setaffinity({pid}, {{0}})",
        f"call('ptrace', 16, {pid}, 0, 0)",
        f"open('/proc/{pid}/environ').read()",
        f"open('/proc/{pid}/mem', 'rb')",
        f"open('/proc/{pid}/fd/0')",
        f"os.listdir('/proc/{pid}/fd')",
        "call('shmat', 0, 0, 0)",
        "call('shmget', 1, 4096, 0o1666)",
        "call('prctl', 1, 0, 0, 0, 0)",  # the death that follows the jail's cannot be called off
    )
    assert set(outcomes) == {"PermissionError"}, outcomes
    allowed = attempts("import resource", "resource.getrlimit(resource.RLIMIT_CPU)")
    assert allowed == ["done"]


def test_nobodys_files_change_mode_owner_time_or_attributes(tmp_path):
    target = tmp_path / "target"
    target.write_text("x")
    before = target.stat()
    outcomes = attempts(
        f"import os\ntarget = {str(target)!r}",
        "os.chmod(target, 0o777)",
        "os.chown(target, 0, 0)",
        "os.lchown(target, 0, 0)",
        "os.utime(target, (0, 0))",
        "os.setxattr(target, 'user.x', b'1')",
        "os.removexattr(target, 'user.x')",
        "os.chmod(os.__file__, 0)",
        "os.fchmod(os.open(os.__file__, os.O_RDONLY), 0)",
    )
    assert set(outcomes) == {"PermissionError"}
    assert target.stat() == before


def test_no_right_is_left_and_none_can_be_won():
    program = """
    import ctypes, os
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    print([*data][:5])
    for uid in (0, 12345):
        if uid != os.getuid():
            try:
                os.setuid(uid)
                print('won')
            except PermissionError:
                pass
    print(libc.unshare(0x10000000), libc.mount(b'a', b'b', b'tmpfs', 0, None), libc.chroot(b'/'))
    """
    result = run(program)
    lines = result.stdout.decode().splitlines()
    permitted = [int(x) for x in lines[0][1:-1].split(",")]
    assert (permitted[0], permitted[1], permitted[3], permitted[4]) == (0, 0, 0, 0)
    assert lines[1:] == ["-1 -1 -1"], result.stderr


def test_the_environment_does_not_come_in(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    assert b"s3cr3t" not in run("import os; print(dict(os.environ))").stdout


def test_the_kernel_holds_these_limits_and_python_is_alone_with_these_words():
    told = json.loads(run(SETTINGS, limits=LIMITED).stdout)
    del told["limits"]["STACK"], told["limits"]["NPROC"]  # all of the user's processes would count
    assert told["limits"] == LIMITS_TOLD
    folder = told["environ"]["HOME"]
    assert told["flags"] == [1, 1, [f"{folder}/program.py"]]
    assert told["environ"] == {
        "PATH": "/usr/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip


def test_only_three_descriptors_are_open():
    program = """
    import os
    descriptors = []
    for fd in range(64):
        try:
            os.fstat(fd)
            descriptors.append(fd)
        except OSError:
            pass
    print(descriptors)
    """
    assert run(program).stdout == b"[0, 1, 2]\n"


def test_open_files_of_others_are_not_leased_locked_owned_or_changed():
    outcomes = attempts(
        "import array, ctypes, fcntl, os\n"
        "fd, own = os.open(os.__file__, os.O_RDONLY), os.open('own', os.O_RDWR | os.O_CREAT)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def call(name, *args):\n"
        "    if getattr(libc, name)(*args) < 0: raise OSError(ctypes.get_errno(), name)\n",
        "fcntl.fcntl(fd, 1024, 0)",  # F_SETLEASE: every reader elsewhere would wait
        "fcntl.fcntl(fd, 8, 1)",  # F_SETOWN and F_SETSIG: a signal to anybody
        "fcntl.fcntl(fd, 10, 9)",
        "fcntl.fcntl(fd, 15, b'12345678')",
        "fcntl.flock(fd, fcntl.LOCK_EX)",
        "fcntl.ioctl(fd, 0x40087602, array.array('i', [7]))",  # FS_IOC_SETVERSION
        "fcntl.ioctl(fd, 0x40086602, array.array('l', [0]))",  # FS_IOC_SETFLAGS
        "fcntl.ioctl(own, 0x5452, array.array('i', [1]))",  # FIOASYNC
        "os.getxattr(os.__file__, 'user.x')",
        "os.listxattr(os.__file__)",
        "os.pidfd_open(os.getppid())",
        "os.posix_fallocate(own, 0, 1 << 20)",
        "os.remove('own')",
        "os.rename('own', 'other')",
        "os.open('.', os.O_RDWR | os.O_TMPFILE)",
        "call('vmsplice', 1, 0, 0, 0)",
    )
    assert set(outcomes) == {"PermissionError"}, outcomes


def test_a_thread_that_becomes_another_python_ends_with_the_program():
    """It takes the program's number, and a thread's own death wish is none."""
    marker = f"marker-{os.getpid()}-{time.time_ns()}"
    program = f"""
    import os, sys, threading, time
    again = "import os, time\\nfor fd in (0, 1, 2): os.close(fd)\\ntime.sleep(60)"
    arguments = [sys.executable, '-c', again, {marker!r}]
    threading.Thread(target=lambda: os.execve(sys.executable, arguments, {{}})).start()
    time.sleep(100)
    """
    began = time.monotonic()
    result = run(program, limits=Limits(wall_s=1))
    assert result.limit_hit == "wall"
    assert time.monotonic() - began < 10
    assert not processes_with(marker)


def test_memory_counts_when_the_first_thread_has_ended():
    assert run(HELD_BY_A_THREAD, limits=Limits(memory_bytes=128 << 20)).limit_hit == "memory"


def test_the_folder_goes_when_this_process_is_killed(tmp_path):
    script = (
        "import tempfile\nfrom statewise.sandbox import Limits, confined\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "program = \"open('junk', 'w').write('x')\\nimport time\\ntime.sleep(60)\"\n"
        "confined.run_confined('landlock', program, b'', Limits(wall_s=60))"
    )
    root = Path(sandbox.__file__).parents[2]
    host = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    until = time.monotonic() + 20
    while not list(tmp_path.glob("*/junk")) and time.monotonic() < until:
        time.sleep(0.02)
    assert list(tmp_path.glob("*/junk"))
    host.kill()
    host.wait()
    while list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "limits", "limit"),
    [("import time; time.sleep(60)", Limits(wall_s=0.5), "wall"),
     ("while True: pass", Limits(cpu_s=1), "cpu"),
     ("import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
      "    except (OSError, ValueError): pass\nwhile True: pass", Limits(wall_s=0.5), "wall"),
     ("print('x' * 3_000_000)", Limits(), "output"),
     ("x = []\nwhile True: x.append(bytearray(b'x' * (1 << 20)))",
      Limits(memory_bytes=128 << 20), "memory"),
     ("import threading, time\nthreading.stack_size(65536)\n"
      "while True: threading.Thread(target=time.sleep, args=(9,), daemon=True).start()",
      Limits(), "processes"),
     ("for i in range(100_000): open(str(i), 'wb').write(bytes(1 << 20))",
      Limits(tmp_bytes=8 << 20), "files"),
     ("for i in range(1_000_000): open(str(i), 'wb').close()",
      Limits(tmp_bytes=1 << 40), "files")],
)  # fmt: skip
def test_every_limit_ends_the_program(program, limits, limit):
    began = time.monotonic()
    result = run(program, limits=limits)
    if limit == "memory" and result.exit_code == 1:  # whichever comes first
        assert b"MemoryError" in result.stderr
    else:
        assert result.limit_hit == limit, result
    assert time.monotonic() - began < 30


def test_the_size_of_a_file_is_limited():
    result = run("open('x', 'wb').write(bytes(3 << 20))", limits=Limits(file_bytes=1 << 20))
    assert b"File too large" in result.stderr


def test_a_program_ends_where_its_launcher_is_killed():
    assert ends_with_its_launcher(f"marker-{os.getpid()}-{time.time_ns()}")


def test_the_program_vanishes_when_this_process_is_killed():
    marker = f"marker-{os.getpid()}-{time.time_ns()}"
    program = f"import os, sys; os.execv(sys.executable, ['{marker}', '-c', 'while True: pass'])"
    script = (
        "from statewise.sandbox import Limits, confined\n"
        f"confined.run_confined('landlock', {program!r}, b'', Limits(wall_s=60, cpu_s=60))"
    )
    root = Path(sandbox.__file__).parents[2]
    host = subprocess.Popen([sys.executable, "-c", script], cwd=root)

    def processes_with() -> bool:
        for entry in Path("/proc").iterdir():
            try:
                if (
                    entry.name.isdigit()
                    and marker.encode() + b"\0-c\0while" in (entry / "cmdline").read_bytes()
                ):
                    return True
            except OSError:
                continue
        return False

    until = time.monotonic() + 20
    while not processes_with() and time.monotonic() < until:
        time.sleep(0.02)
    assert processes_with()
    host.kill()
    host.wait()
    while processes_with() and time.monotonic() < until:
        time.sleep(0.02)
    assert not processes_with()


def test_landlock_holds_by_itself_what_the_filter_refuses_before(tmp_path):
    """Two layers: this one without the other."""
    name, own = f"statewise-test-{os.getpid()}", tmp_path / "own"
    own.mkdir()
    library = os.path.realpath(os.__file__)
    (tmp_path / "beside").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        refused = [
            f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)",
            "socket.create_server(('127.0.0.1', 0))",
            f"socket.socket(socket.AF_UNIX).connect('\\0{name}')",
            f"os.kill({os.getpid()}, 0)",
            "os.mkdir('new')",
            "os.mkfifo('new')",
            "os.symlink('a', 'new')",
            "os.mknod('new', 0o20666, os.makedev(1, 3))",
            "os.mknod('new', 0o60666, os.makedev(7, 0))",
            "socket.socket(socket.AF_UNIX).bind('new')",
            "os.remove('a')",
            "os.rename('a', 'new')",
            "os.execv('./a', ['a'])",
            "os.open('../beside', os.O_RDONLY)",
            "os.open('../beside', os.O_WRONLY)",
            "os.truncate('../beside', 0)",
            "os.link('a', '../new')",
            "os.listdir('..')",
            "os.listdir('/dev')",
            "os.execv('/dev/null', ['null'])",
            "fcntl.ioctl(os.open('/dev/null', os.O_RDWR), 0x5401)",
            f"os.open({library!r}, os.O_WRONLY)",
            f"os.truncate({library!r}, {os.path.getsize(library)})",
            f"os.open({os.path.dirname(library)!r} + '/new', os.O_CREAT | os.O_WRONLY)",
        ]
        allowed = [
            "os.truncate('a', 0)",
            "open('b', 'w').write('x')",
            "open('a').read() + str(os.listdir('.'))",
            "[open('/dev/' + n, 'rb').read(1) for n in ('zero', 'full', 'random', 'urandom')]",
            "open('/dev/null', 'w').write('x')",
            f"open({library!r}).read()",
            f"os.listdir({os.path.dirname(library)!r})",
        ]
        script = (
            "import fcntl, os, socket\nfrom statewise.sandbox import installation, jail\n"
            f"os.chdir({str(own)!r})\nopen('a', 'w').write('#!/bin/true')\nos.chmod('a', 0o777)\n"
            "jail.prctl(jail.PR_SET_NO_NEW_PRIVS, 1)\n"
            f"jail.restrict_to(installation.shown(), [], {str(own)!r})\n"
            f"for e in {refused + allowed!r}:\n"
            "    try: exec(e)\n    except OSError as error: print(type(error).__name__, e)\n"
            "    else: print('done', e)"
        )
        told = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(sandbox.__file__).parents[2],
            env=os.environ | {"PYTHONPATH": str(Path(sandbox.__file__).parents[2])},
            capture_output=True,
            text=True,
            timeout=60,
        )
    outcomes = [line.partition(" ")[::2] for line in told.stdout.splitlines()]
    assert [e for _, e in outcomes] == refused + allowed, told.stderr
    version = jail.landlock_version()
    for outcome, e in outcomes:
        since = (
            6 if "AF_UNIX" in e or "kill" in e else 5 if "ioctl" in e else 4 if "127" in e else 3
        )
        if version >= since:
            assert outcome == ("done" if e in allowed else "PermissionError"), (outcome, e)


def test_an_old_landlock_is_refused(monkeypatch):
    monkeypatch.setattr(jail, "LANDLOCK_NEEDED", 99)
    with pytest.raises(jail.JailError, match="99 is needed"):
        jail.landlock_version()


@pytest.mark.skipif(os.geteuid() != 0, reason="not root, so every test here is this one")
def test_a_user_without_rights_gets_it_too():
    root = Path(sandbox.__file__).parents[2]
    program = "import os; print(os.getuid()); print(open('/etc/passwd').read())"
    script = (
        "from statewise.sandbox import Limits, confined; "
        f"r = confined.run_confined('landlock', {program!r}, b'', Limits()); "
        "print(r.stdout.decode(), r.stderr.decode())"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            result = subprocess.run(
                [python, "-c", script], cwd=root, user=54321, group=54321, extra_groups=[],
                capture_output=True, text=True, env={}, timeout=60, check=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            continue
        assert result.stdout.startswith("54321\n")
        assert "PermissionError" in result.stdout
        return
    pytest.skip("no Python here that a user without rights can start")


def test_functions_are_called_and_judged_as_behind_namespaces():
    """The attacks on the verdict need no isolation to fail: see `tests/eval/test_functions.py`."""
    function = Function(
        "double", 'def double(x):\n    """2x"""\n', "    return 2 * x\n",
        "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
    )  # fmt: skip
    problem = Problem("d", "code", "double", function=function)
    for body, right in (("return x + x", True), ("return x * x", False)):
        verdict = judge(problem, f"def double(x):\n    {body}\n")
        assert verdict.correct is right, verdict

"""One attack a test, one test (at least) for each line of the sandbox's docstring."""

import json
import marshal
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
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
    launchers,
    processes_with,
    run,
)

from statewise import sandbox
from statewise.errors import SandboxError
from statewise.sandbox import Limits, execute, installation, jail, starter, watch

pytestmark = pytest.mark.skipif(
    sandbox.isolation().kind != "namespaces",
    reason=f"no namespaces here: {sandbox.isolation().detail}",
)

SHORT = Limits(wall_s=0.5)


# What goes in and comes out


def test_output_error_and_exit_code_arrive_as_they_are():
    result = run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert (result.stdout, result.stderr, result.exit_code) == (b"out\n", b"err\n", 7)
    assert not result.timed_out
    assert result.limit_hit is None


def test_an_exception_ends_with_code_one_and_its_traceback():
    result = run("1 / 0")
    assert result.exit_code == 1
    assert b'File "/program.py", line 1' in result.stderr
    assert b"ZeroDivisionError" in result.stderr


def test_a_signal_is_reported_as_its_negative_number():
    result = run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert result.exit_code == -signal.SIGSEGV


def test_leaving_without_cleaning_up_is_an_exit_like_any_other():
    assert run("import os; os._exit(0)").exit_code == 0


@pytest.mark.parametrize(
    "reader",
    [
        "sys.stdin.buffer.read()",
        "open(0, 'rb').read()",
        "open('/dev/stdin', 'rb').read()",
        "b''.join(iter(lambda: os.read(0, 100), b''))",
    ],
)
def test_standard_input_is_bytes_however_it_is_read(reader):
    data = bytes(range(256)) * 2000
    result = run(f"import sys, os; d = {reader}; sys.stdout.buffer.write(d[::-1])", stdin=data)
    assert result.stdout == data[::-1]


def test_standard_input_is_text_and_ends():
    result = run("import sys\nprint(input(), [l for l in sys.stdin])", stdin="é\n1\n2".encode())
    assert result.stdout.decode() == "é ['1\\n', '2']\n"


def test_without_input_the_stream_is_empty():
    assert run("import sys; print(repr(sys.stdin.read()))").stdout == b"''\n"


def test_input_that_is_never_read_does_not_block():
    assert run("print(1)", stdin=b"x" * 3_000_000).stdout == b"1\n"


def test_the_quitting_words_of_the_interactive_python_exist():
    assert run("print(1)\nquit()").exit_code == 0


def test_a_source_that_is_no_python_at_all_is_a_failed_program():
    for source in ("def", "\ud800", "é = 1 +"):
        assert run(source).exit_code == 1


def test_programs_run_side_by_side_from_threads():
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: run(f"print({i} ** 2)"), range(8)))
    assert [int(r.stdout) for r in results] == [i * i for i in range(8)]


# No network


def test_the_network_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        outcomes = attempts(
            "import socket",
            f"socket.create_connection(('127.0.0.1', {port}), 1)",
            "socket.create_connection(('192.0.2.1', 80), 1)",
            "socket.getaddrinfo('example.org', 80)",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
            "socket.socket(40, socket.SOCK_STREAM)",  # AF_VSOCK, the way to a hypervisor
            "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        )
    assert "done" not in outcomes


def test_an_abstract_unix_socket_of_the_host_is_out_of_reach():
    name = f"statewise-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + name)
        server.listen()
        program = "import socket; s = socket.socket(socket.AF_UNIX)"
        assert attempts(program, f"s.connect('\\0{name}')") == ["ConnectionRefusedError"]


# No view of files, environment, processes, descriptors


def test_a_file_next_to_the_test_cannot_be_read(tmp_path):
    secret = tmp_path / "expected.txt"
    secret.write_text("42")
    outcomes = attempts(
        "import os",
        f"open({str(secret)!r})",
        f"open({__file__!r})",
        f"os.listdir({os.path.expanduser('~') + '/'!r} + '.ssh')",
        f"os.listdir({os.getcwd()!r})",
        "open('/etc/passwd')",
        "open('/proc/1/root/etc/passwd')",
        "open('/tmp/../../../../etc/passwd')",
        f"os.symlink({str(secret)!r}, '/tmp/s') or open('/tmp/s')",
    )
    assert "done" not in outcomes


def test_the_root_holds_the_installation_and_an_empty_tmp():
    result = run("import os; print(*os.listdir('/')); print(*os.listdir('/tmp'))")
    root, tmp = result.stdout.decode().split("\n")[:2]
    above = {Path(p).parts[1] for p in installation.shown()}
    assert set(root.split()) == {"program.py", "tmp", "proc", "dev"} | above
    assert tmp == ""


def test_installed_packages_are_hidden():
    assert attempts("", "import pytest", "import numpy") == ["ModuleNotFoundError"] * 2


def test_the_environment_does_not_come_in(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    result = run(
        """
        import os
        print(dict(os.environ))
        for pid in (1, os.getpid()):
            try:
                print(open(f'/proc/{pid}/environ', 'rb').read())
            except OSError as e:
                print(e)
        """
    )
    assert result.exit_code == 0
    assert b"s3cr3t" not in result.stdout
    assert b"SECRET" not in result.stdout


def test_no_process_of_the_host_is_seen_or_reached():
    result = run(
        """
        import os
        print(*sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))
        alive = []
        for pid in range(3, 3000):
            try:
                os.kill(pid, 0)
                alive.append(pid)
            except ProcessLookupError:
                pass
        print(alive, os.getppid())
        """
    )
    assert result.stdout.decode().split("\n")[:2] == ["1 2", "[] 1"]


def test_only_three_descriptors_are_open():
    result = run(
        """
        import os
        for fd in range(64):
            try:
                os.fstat(fd)
                print(fd)
            except OSError:
                pass
        """
    )
    assert result.stdout.split() == [b"0", b"1", b"2"]


def test_there_is_no_terminal():
    assert attempts("import os", "os.open('/dev/tty', os.O_RDWR)") == ["FileNotFoundError"]


# No writing, no rights


def test_nothing_outside_tmp_can_be_written():
    library = os.path.dirname(os.__file__)
    outcomes = attempts(
        "import os",
        "open('/x', 'w')",
        "open('/program.py', 'a')",
        f"open({library!r} + '/x', 'w')",
        f"open({library!r} + '/os.py', 'a')",
        f"os.unlink({library!r} + '/os.py')",
        "open('/dev/x', 'w')",
        "open('/proc/self/oom_score_adj', 'w')",
        "open('/proc/sys/kernel/core_pattern', 'w')",
        "os.mkdir('/usr/x')",
    )
    assert "done" not in outcomes


def test_tmp_can_be_written_and_vanishes():
    assert run("open('/tmp/x', 'w').write('1'); print(open('x').read())").stdout == b"1\n"
    assert run("import os; print(os.listdir('/tmp'))").stdout == b"[]\n"


def test_no_right_is_left_and_none_can_be_won():
    program = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
"""
    outcomes = attempts(
        program,
        "os.setuid(0)",
        "os.setgid(0)",
        "os.chroot('/tmp')",
        "os.mknod('/tmp/null', 0o20666, os.makedev(1, 3))",
        "call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
        "call('umount2', b'/tmp', 2)",
        "call('unshare', 0x10000000)",
        "call('setns', 0, 0)",
        "call('ptrace', 16, 1, 0, 0)",
        "call('syscall', 250, 0, 0, 0)",
        "call('memfd_create', b'x', 0)",
        "resource.setrlimit(resource.RLIMIT_NPROC, (500, 500))",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    )
    assert "done" not in outcomes
    status = run("print(open('/proc/self/status').read(), __import__('os').getuid())").stdout
    assert b"CapEff:\t0000000000000000" in status
    assert b"NoNewPrivs:\t1" in status
    assert b"Seccomp:\t2" in status
    assert status.rstrip().endswith(b"65534")


def test_every_namespace_is_the_programs_own():
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    inside = run(f"import os\nfor k in {kinds}: print(os.readlink('/proc/self/ns/' + k))")
    outside = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    assert len(inside.stdout.split()) == len(kinds)
    assert set(inside.stdout.decode().split()).isdisjoint(outside)


def test_every_mount_but_tmp_and_the_devices_is_read_only_and_none_gives_rights():
    text = run("print(open('/proc/self/mountinfo').read())").stdout.decode()
    mounts = {}  # what is mounted last at a place: its options, and those of its file system
    for line in text.splitlines():
        if line:
            before, after = line.split(" - ")
            mounts[before.split()[4]] = (set(before.split()[5].split(",")), after)
    devices = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
    shown = tuple(f"{path}/" for path in installation.shown())
    hidden = {path for path in installation.hidden() if path.startswith(shown)}
    assert set(mounts) >= {"/", "/proc", "/tmp"} | devices | hidden
    for place, (options, _) in mounts.items():
        if place not in devices:
            assert {"nosuid", "nodev", "rw" if place == "/tmp" else "ro"} <= options, place
    assert "noexec" in mounts["/proc"][0]
    assert mounts["/proc"][1].endswith("subset=pid")
    assert "size=65536k,nr_inodes=4096" in mounts["/tmp"][1]
    for place in hidden:
        assert "size=4k,nr_inodes=16" in mounts[place][1]
    result = run("import os, stat; print(stat.filemode(os.stat('/tmp').st_mode))")
    assert result.stdout == b"drwxrwxrwt\n"


def test_a_program_leads_a_session_has_one_user_and_no_group_and_goes_first_without_memory():
    result = run(
        """
        import os, signal, sys
        print(os.getsid(0) == os.getpid() == os.getpgid(0), os.uname().nodename, os.getcwd())
        print({*os.getresuid(), *os.getresgid()}, os.getgroups())
        print(signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL, os.getppid(), sys.argv)
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        """
    )
    assert result.stdout.decode().splitlines() == [
        "True sandbox /tmp",
        "{65534} []",
        "True 1 ['/program.py']",
        "True",
    ]
    caught = run("try: print(open('/proc/self/oom_score_adj').read())\nexcept OSError: print(1000)")
    assert caught.stdout.split() == [b"1000"]


# Limits


def test_a_program_for_which_nothing_is_said_has_these_limits():
    assert Limits() == Limits(
        wall_s=10.0, cpu_s=10.0, memory_bytes=512 << 20, processes=16, file_bytes=16 << 20,
        tmp_bytes=64 << 20, output_bytes=1 << 20, stack_bytes=8 << 20,
    )  # fmt: skip


def test_the_rate_is_that_of_all_threads_together(monkeypatch):
    ended = []
    monkeypatch.setattr(execute, "run", lambda program: ended.append(program) or time.sleep(0.02))
    began = time.monotonic()
    rate = sandbox.rate(3, 0.3)
    took = time.monotonic() - began
    assert set(ended) == {""}
    assert 0.3 <= took < 5
    assert rate == pytest.approx(len(ended) / took, rel=0.1)


def test_the_kernel_holds_these_limits_and_python_is_alone_with_these_words():
    told = json.loads(run(SETTINGS, limits=LIMITED).stdout)
    stack, most = told["limits"].pop("STACK")
    assert (stack, most) == (4 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1])
    assert told["limits"] == LIMITS_TOLD | {"NPROC": [8, 8]}  # the namespace's first counts too
    assert told["flags"] == [1, 1, ["/program.py"]]
    assert told["environ"] == {
        "PATH": "/usr/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip


def test_where_this_process_may_have_less_stack_a_program_has_no_more():
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_STACK, (6 << 20, 6 << 20))\n"
        "from statewise import sandbox\n"
        f"print(sandbox.run({SETTINGS!r}).stdout.decode())"
    )
    root = Path(sandbox.__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, check=True)
    assert json.loads(told.stdout)["limits"]["STACK"] == [6 << 20, 6 << 20]


@pytest.mark.parametrize("program", ["while True: pass", "import time; time.sleep(60)"])
def test_a_program_without_end_is_killed_at_its_deadline(program):
    result = run(program, limits=SHORT)
    assert (result.timed_out, result.limit_hit, result.exit_code) == (True, "wall", None)


def test_ignoring_every_signal_does_not_help():
    result = run(
        """
        import signal
        for s in range(1, 65):
            try:
                signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        print('ignored', flush=True)
        while True: pass
        """,
        limits=SHORT,
    )
    assert result.timed_out
    assert result.stdout == b"ignored\n"


def test_processor_time_is_limited_apart_from_wall_time():
    result = run("while True: pass", limits=Limits(wall_s=30, cpu_s=1))
    assert (result.timed_out, result.limit_hit) == (True, "cpu")


def test_a_memory_bomb_at_once_is_a_memory_error():
    result = run("x = bytearray(4 << 30)")
    assert result.exit_code == 1
    assert b"MemoryError" in result.stderr


def test_memory_taken_step_by_step_ends_the_program():
    result = run(
        """
        import time
        x = []
        while True:
            x.append(bytearray(b'x') * (8 << 20))
            time.sleep(0.01)
        """,
        limits=Limits(memory_bytes=64 << 20),
    )
    assert (result.limit_hit, result.exit_code, result.timed_out) == ("memory", None, False)


def test_memory_of_children_counts_together():
    result = run(
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                x = bytearray(b'x') * (30 << 20)
                time.sleep(30)
        time.sleep(30)
        """,
        limits=Limits(memory_bytes=128 << 20),
    )
    assert result.limit_hit == "memory"


def test_memory_that_children_share_counts_once():
    result = run(
        """
        import os, time
        x = bytearray(b'x') * (40 << 20)
        for _ in range(6):
            if os.fork() == 0:
                time.sleep(0.2)
                os._exit(0)
        time.sleep(0.3)
        print('alive')
        """,
        limits=Limits(memory_bytes=128 << 20),
    )
    assert result.stdout == b"alive\n"


def test_a_fork_bomb_stops_at_the_limit_and_leaves_nothing():
    result = run(
        """
        import os, time
        n = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                n += 1
        except OSError:
            print(n, flush=True)
        """,
        limits=Limits(processes=10),
    )
    assert result.stdout == b"9\n"  # and the program itself
    assert result.exit_code == 0
    bomb = run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", limits=SHORT)
    assert bomb.timed_out


def test_threads_count_as_processes():
    program = """
        import threading, time
        n = 0
        try:
            while True:
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                n += 1
        except RuntimeError:
            print(n, flush=True)
        """
    assert run(program, limits=Limits(processes=6)).stdout == b"5\n"


def test_a_flood_of_output_is_cut():
    limits = Limits(output_bytes=10_000)
    for stream in ("stdout", "stderr"):
        result = run(f"import sys\nwhile True: sys.{stream}.write('x' * 999)", limits=limits)
        assert getattr(result, stream) == b"x" * 10_000
        assert (result.limit_hit, result.timed_out, result.exit_code) == ("output", False, None)
    exact = run("import sys; sys.stdout.write('x' * 10_000)", limits=limits)
    assert (len(exact.stdout), exact.exit_code, exact.limit_hit) == (10_000, 0, None)


def test_the_size_of_files_is_limited():
    limits = Limits(file_bytes=1 << 20, tmp_bytes=3 << 20)
    one = run("open('/tmp/x', 'wb').write(bytes(2 << 20))", limits=limits)
    assert b"File too large" in one.stderr
    many = run("for i in range(9): open(f'/tmp/{i}', 'wb').write(bytes(1 << 19))", limits=limits)
    assert b"No space left" in many.stderr
    names = run("for i in range(9999): open(f'/tmp/{i}', 'w').close()", limits=limits)
    assert b"No space left" in names.stderr


def test_deep_recursion_is_a_failed_program():
    limits = Limits(memory_bytes=64 << 20)
    result = run(
        "import sys; sys.setrecursionlimit(10**9)\ndef f(): return [f()]\nf()", limits=limits
    )
    assert result.exit_code != 0


def test_memory_counts_when_a_first_thread_has_ended():
    assert run(HELD_BY_A_THREAD, limits=Limits(memory_bytes=128 << 20)).limit_hit == "memory"


def test_what_the_whole_machine_shares_is_not_taken():
    outcomes = attempts(
        "import ctypes, fcntl, os, socket\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def call(name, *args):\n"
        "    if getattr(libc, name)(*args) < 0: raise OSError(ctypes.get_errno(), name)\n"
        "fd = os.open(os.__file__, os.O_RDONLY)",
        "call('inotify_init1', 0)",
        "call('vmsplice', 1, 0, 0, 0)",  # pages that no process holds
        "call('syscall', 206 if os.uname().machine == 'x86_64' else 0, 1, 0)",  # io_setup
        "fcntl.fcntl(fd, 1024, 0)",  # F_SETLEASE: every reader elsewhere would wait
        "fcntl.fcntl(fd, 8, 1)",
        "socket.socketpair(socket.AF_INET)",
    )
    assert set(outcomes) == {"PermissionError"}, outcomes
    timers = attempts(
        "import ctypes\nlibc = ctypes.CDLL(None)\nslot = ctypes.c_void_p()",
        "assert any(libc.timer_create(0, None, ctypes.byref(slot)) for _ in range(200))",
    )
    assert timers == ["done"]


# Nothing is left behind


def test_a_background_child_dies_with_the_program():
    result = run(
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True:
                    time.sleep(60)
            os._exit(0)
        print('parent done', flush=True)
        """
    )
    assert result.stdout == b"parent done\n"  # and the stream has ended
    assert result.exit_code == 0


def test_the_programs_processes_vanish_when_this_process_is_killed():
    marker = f"marker-{os.getpid()}-{time.time_ns()}"
    program = f"import os, sys; os.execv(sys.executable, ['{marker}', '-c', 'while True: pass'])"
    host = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from statewise import sandbox; sandbox.run({program!r})",
        ],
        cwd=Path(sandbox.__file__).parents[2],
    )
    until = time.monotonic() + 20
    while not (alive := processes_with(marker + "\0-c\0while")) and time.monotonic() < until:
        time.sleep(0.02)
    assert alive
    host.kill()
    host.wait()
    while processes_with(marker + "\0-c\0while") and time.monotonic() < until:
        time.sleep(0.02)
    assert not processes_with(marker + "\0-c\0while")


def test_ctrl_c_leaves_nothing_behind():
    interrupt = [threading.main_thread().ident, signal.SIGINT]
    threading.Timer(0.3, signal.pthread_kill, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(50)")
    until = time.monotonic() + 20
    while launchers() and time.monotonic() < until:
        time.sleep(0.02)
    assert not launchers()
    assert run("print(1)").stdout == b"1\n"


def test_a_program_ends_where_its_launcher_is_killed():
    assert ends_with_its_launcher(f"marker-{os.getpid()}-{time.time_ns()}")


def test_killing_everything_inside_hurts_nobody_else():
    result = run(
        """
        import os, time
        if os.fork() == 0:
            time.sleep(60)
        os.kill(1, 2)
        os.kill(1, 9)
        os.kill(-1, 9)
        print('still here')
        """
    )
    assert (result.exit_code, result.stdout) == (0, b"still here\n")


# Both ways into the jail: as root, and as anybody with a user namespace


@pytest.mark.skipif(os.geteuid() != 0, reason="not root, so every test here is this one")
def test_a_user_without_rights_gets_the_same_isolation():
    stranger = 54321
    root = Path(sandbox.__file__).parents[2]
    program = "import os; print(os.getuid(), os.listdir('/tmp'), os.path.exists('/etc/passwd'))"
    script = (
        f"from statewise import sandbox; r = sandbox.run({program!r}); "
        "print(r.stdout.decode(), r.stderr.decode())"
    )
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            result = subprocess.run(
                [python, "-c", script],
                cwd=root,
                user=stranger,
                group=stranger,
                extra_groups=[],
                capture_output=True,
                text=True,
                env={},
                timeout=60,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        assert result.stdout.startswith(f"{jail.NOBODY} [] False")
        return
    pytest.skip("no Python here that a user without rights can start")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its groups")
def test_a_program_has_no_group_of_roots():
    script = (
        "from statewise import sandbox\n"
        "print(sandbox.run('import os; print(os.getgroups())').stdout.decode())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(sandbox.__file__).parents[2],
        extra_groups=[12345, 0],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"


# Without isolation nothing runs


FAKE = """
import os, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
while True:
    request, fds, _, _ = socket.recv_fds(control, 1, 4)
    if not request:
        break
    os.write(fds[3], {report!r})
    for fd in fds:
        {hangs} or os.close(fd)
"""


def test_a_fork_of_this_process_in_the_middle_of_a_run_holds_nothing_of_it():
    with ThreadPoolExecutor(1) as pool:
        with starter._starting:
            running = pool.submit(run, "import sys; print(len(sys.stdin.read()))", b"x" * 200_000)
            time.sleep(0.2)  # it waits for the lock
            child = os.fork()
            if child == 0:
                os._exit(0 if run("print(1)").stdout == b"1\n" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert running.result().stdout == b"200000\n"
        sleeping = pool.submit(run, "import time; time.sleep(1); print('done')")
        time.sleep(0.4)
        ends = [
            end.fileno() for end in list(starter.open_ends) if not getattr(end, "closed", False)
        ]
        assert len(ends) >= 3
        child = os.fork()
        if child == 0:
            os._exit(sum(is_open(fd) for fd in ends))
        assert os.waitpid(child, 0)[1] == 0
        assert sleeping.result().stdout == b"done\n"


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def a_jail_that_says(monkeypatch, tmp_path):
    def use(report: bytes, hangs: bool = False) -> None:
        fake = tmp_path / "jail.py"
        fake.write_text(FAKE.format(report=report, hangs=hangs))
        monkeypatch.setattr(starter, "JAIL", fake)

    return use


def test_where_every_isolation_is_forbidden_nothing_runs_and_the_reasons_are_given(
    monkeypatch, a_jail_that_says
):
    a_jail_that_says(b"error unshare: Operation not permitted\n")
    offered = execute._offered.__wrapped__()
    assert offered.kind == "none"
    assert "namespaces: unshare" in offered.detail
    assert "landlock: unshare" in offered.detail
    monkeypatch.setattr(execute, "isolation", lambda: offered)
    with pytest.raises(SandboxError, match=r"unshare: Operation not permitted.*user namespaces"):
        run("print(1)")


def test_a_jail_that_dies_silently_is_an_error_of_the_sandbox(a_jail_that_says):
    a_jail_that_says(b"")
    with pytest.raises(SandboxError, match="without a report"):
        run("print(1)")


@pytest.mark.parametrize(
    ("report", "ended"),
    [(b"started\nexit 5 -\n", (5, None, False)),
     (b"started\nexit -9 memory\n", (None, "memory", False)),
     (b"started\nexit -9 files\n", (None, "files", False)),
     (b"started\nexit -24 cpu\n", (None, "cpu", True))],
)  # fmt: skip
def test_a_report_is_taken_as_it_is(a_jail_that_says, report, ended):
    a_jail_that_says(report)
    result = run("")
    assert (result.exit_code, result.limit_hit, result.timed_out) == ended
    assert result.wall_s < 10


@pytest.mark.parametrize("says", [b"", b"started\n"])
def test_a_jail_that_hangs_is_an_error_and_is_not_waited_for(a_jail_that_says, monkeypatch, says):
    a_jail_that_says(says, hangs=True)
    monkeypatch.setattr(watch, "START_S", 0.3)
    monkeypatch.setattr(watch, "END_S", 0.3)
    began = time.monotonic()
    with pytest.raises(SandboxError, match="did not start or end in time"):
        run("", limits=Limits(wall_s=0.2))
    assert 0.2 < time.monotonic() - began < 10


def test_a_starter_that_was_killed_is_started_again():
    assert run("print(1)").stdout == b"1\n"
    starter._started._process.kill()
    starter._started._process.wait()
    assert run("print(2)").stdout == b"2\n"


def test_a_starter_has_nothing_of_this_process_but_a_line_to_it(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    monkeypatch.setattr(starter, "_started", None)
    assert run("print(1)").stdout == b"1\n"
    pid = starter._started._process.pid
    try:
        place = Path(f"/proc/{pid}")
        assert (place / "cmdline").read_bytes().split(b"\0")[1:4] == [b"-I", b"-S", b"-B"]
        held = {fd.name: os.readlink(fd) for fd in (place / "fd").iterdir()}
        assert [held.pop(fd) for fd in "012"] == ["/dev/null"] * 3
        kinds = [link.partition(":")[0] for link in held.values()]
        assert [k for k in kinds if not k.endswith("/lines")] == ["socket"]  # lines: coverage's
        assert (place / "environ").read_bytes() == b""
        assert os.readlink(place / "cwd") == "/"
        assert os.getsid(pid) == pid
    finally:
        starter._started.close()


def test_a_fork_of_this_process_has_a_starter_of_its_own():
    run("print(1)")
    ours = starter._started
    before = ours._process.pid
    child = os.fork()
    if child == 0:
        good = run("print(1)").stdout == b"1\n" and starter._started._process.pid != before
        good = good and ours._control.fileno() == -1
        ours.close()  # as at an end that clears up
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert run("print(1)").stdout == b"1\n"
    assert starter._started is ours


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="darwin"):
        run("print(1)")


@pytest.mark.parametrize(
    ("code", "spent_s", "out"),
    [(-9, 1.0, True), (-24, 1.0, True), (-9, 0.86, True), (-9, 0.3, False), (-11, 1.0, False)],
)
def test_a_program_that_is_killed_near_its_processor_time_has_run_out_of_it(code, spent_s, out):
    # 0.86 s is what the kernel told of programs that it had ended at 1 s, on a busy machine.
    assert jail.out_of_time(code, spent_s, cpu_s=1) is out


@pytest.mark.parametrize("alone", [False, True])
def test_the_call_filter_is_sound_on_both_machines(monkeypatch, alone):
    """Every jump lands inside the program, and every path ends in a verdict."""
    for machine in jail.MACHINES:
        monkeypatch.setattr(jail, "machine", lambda m=machine: jail.MACHINES[m])
        code = jail.call_filter(alone=alone)
        lines = [jail.struct.unpack_from("HBBI", code, i) for i in range(0, len(code), 8)]
        for at, (operation, yes, no, _) in enumerate(lines):
            if operation != 0x06:
                assert at + 1 + max(yes, no) < len(lines)
        assert lines[-1][0] == 0x06


# What a jail counts, on processes and folders of this test


def test_memory_is_what_a_process_holds_and_shared_pages_are_divided():
    held = bytearray(b"x") * (64 << 20)
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        one, both = [str(os.getpid())], [str(os.getpid()), str(child)]
        assert jail.memory_used(one) > len(held)
        assert jail.memory_used(both) > 2 * len(held)
        assert len(held) < jail.memory_used_exactly(both) < jail.memory_used(both) - len(held) // 2
        assert jail.memory_used(["none"]) == jail.memory_used_exactly(["none"]) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_files_count_by_their_blocks_at_least_one_each_and_too_many_pass_any_limit(
    tmp_path, monkeypatch
):
    assert jail.stored(str(tmp_path)) == 0
    (tmp_path / "empty").touch()
    assert jail.stored(str(tmp_path)) == 4096
    (tmp_path / "full").write_bytes(b"x" * 50_000)
    os.sync()
    assert 4096 + 50_000 <= jail.stored(str(tmp_path)) < 4096 + 120_000
    (tmp_path / "hole").symlink_to(tmp_path / "full")  # a link is not what it leads to
    assert jail.stored(str(tmp_path)) < 2 * 4096 + 120_000
    monkeypatch.setattr(jail, "MOST_FILES", 3)
    assert jail.stored(str(tmp_path)) < 1 << 30
    (tmp_path / "more").touch()
    assert jail.stored(str(tmp_path)) >= 1 << 60


def test_a_limit_is_passed_where_more_is_used_and_not_where_as_much_is(tmp_path):
    (tmp_path / "a").touch()
    threads = jail.field_of(str(os.getpid()), "status", (b"Threads:",))
    assert threads == len(os.listdir("/proc/self/task"))
    settings = {"folder": str(tmp_path), "memory": 1 << 40, "threads": threads, "stored": 4096}
    assert jail.exceeded(os.getpid(), settings) is None
    for change, limit in (
        ({"threads": threads - 1}, "processes"),
        ({"memory": 1 << 20}, "memory"),
        ({"stored": 4095}, "files"),
    ):
        assert jail.exceeded(os.getpid(), settings | change) == limit


def test_settings_are_read_whole_however_they_come_and_a_host_that_goes_is_an_error():
    data = marshal.dumps({"program": b"x" * 1000})
    message = struct.pack("Q", len(data)) + data
    host, channel = socket.socketpair()
    with channel:
        with host:
            for i in range(0, len(message), 100):
                host.send(message[i : i + 100])
            assert jail.read_settings(channel.fileno()) == {"program": b"x" * 1000}
            host.send(message[:-1])
        with pytest.raises(jail.JailError, match="the host went away"):
            jail.read_settings(channel.fileno())

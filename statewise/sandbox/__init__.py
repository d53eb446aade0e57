"""Runs programs that nobody has vouched for: a model wrote them.

A program is Python source. It runs in processes of its own, behind Linux namespaces, a system call
filter and resource limits; nothing but bytes goes in (standard input) and comes out (standard
output and error, an exit code). Where the kernel forbids namespaces, Landlock and a stricter filter
stand in their place; where it has neither, `run` raises `SandboxError`, unless `without_isolation`
was called (`--sandbox none`): then programs have the user's rights. `isolation` says which it is.

Covered by namespaces, with a test for each line in `tests/test_sandbox.py`:

- no network: no socket but a Unix one, and no interface behind it;
- no view of the user's files: the root holds the Python installation without its site packages
  (but those that the caller names) and the system's libraries, read-only, and an empty /tmp of
  limited size that vanishes with the program;
- no view of the environment, of other processes, or of descriptors of this process;
- no writing outside /tmp;
- no rights: user "nobody", no capabilities, no new namespaces, mounts, tracing or device nodes;
- limits on wall time, processor time, memory (of one process and of all together), number of
  processes and threads, size of a file, bytes of output;
- everything the program started ends with it, or with the deadline, whatever it ignores, and
  also when this process is killed;
- exit code, output and error arrive as they are, as bytes.

Landlock (a test for each line in `tests/test_landlock.py`) differs in this:

- a program is one process: it may start threads, and nothing else;
- it can open no file but those above and its own folder's, and no other package's; that other
  files and processes exist, with their sizes and owners, it can find out;
- no socket at all, no signal to anybody, no change of a file's mode, owner, times or attributes, no
  lease or lock on it; in its folder, /tmp's stand-in, no file can be removed or renamed;
- it has the user's name, and no capability;
- the number of threads, and files and bytes in the folder, are sampled as memory is.

Not covered by either: flaws of the Linux kernel itself; how loudly a program uses the processor
within its limits (use few at once); timing side channels; memory held by the kernel on a program's
behalf (pipes, page tables), which is only bounded by the number of processes. Memory over all
processes is sampled every 20 ms, so a burst may pass the limit by up to 256 MiB a process before
the kill.

Needs Linux on x86_64 or aarch64: 5.12 or newer with user namespaces permitted (or root), or 6.2 or
newer with Landlock.
"""

from statewise.sandbox.execute import Isolation, isolation, rate, run, without_isolation
from statewise.sandbox.installation import Package, package
from statewise.sandbox.limits import Limits, SandboxResult

__all__ = [
    "Isolation",
    "Limits",
    "Package",
    "SandboxResult",
    "isolation",
    "package",
    "rate",
    "run",
    "without_isolation",
]

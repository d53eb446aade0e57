"""What a program may use, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

ADDRESS_SLACK = 256 << 20  # address space beyond memory that is used: libraries, thread stacks


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Bytes are bytes, times are seconds."""

    wall_s: float = 10.0
    cpu_s: float = 10.0  # of one process; rounded up to whole seconds
    memory_bytes: int = 512 << 20  # of all processes together
    processes: int = 16  # threads count
    file_bytes: int = 16 << 20  # of one file
    tmp_bytes: int = 64 << 20  # of all files
    output_bytes: int = 1 << 20  # of standard output, and of standard error
    stack_bytes: int = 8 << 20  # of the first thread, and of others that ask for none


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended.

    Attributes:
        stdout, stderr: what it wrote, cut at `Limits.output_bytes` each.
        exit_code: minus the signal's number if a signal ended it; None if it was killed here.
        timed_out: wall or processor time ran out.
        limit_hit: the limit that ended it, if one did: "wall", "cpu", "memory", "output"; under
            Landlock also "processes" or "files".
        wall_s: from the program's start to its end.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    timed_out: bool
    limit_hit: str | None
    wall_s: float

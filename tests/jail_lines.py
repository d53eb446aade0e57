"""The lines of `jail.py` that run, where coverage is measured: in processes that it cannot follow.

The jail leaves the host's files, changes its uid, and ends by `os._exit` or by becoming the
program. So a script runs it that marks each line in a file which it has mapped into memory before
all that; forks inherit the map, and what is marked is in the file at once.
"""

from contextlib import contextmanager
from pathlib import Path

TRACED = """
import mmap, os, sys

seen = mmap.mmap(os.open(LINES, os.O_RDWR), 0)


def of_line(frame, event, arg):
    if event == "line":
        seen[frame.f_lineno] = 1
    return of_line


def of_call(frame, event, arg):
    return of_line if frame.f_code.co_filename == JAIL else None


with open(JAIL) as f:
    code = compile(f.read(), JAIL, "exec")
sys.settrace(of_call)
exec(code, {"__name__": "__main__", "__file__": JAIL})
"""


@contextmanager
def measured(coverage, folder):
    """Run every jail under the eyes of a running measurement, as one more file of its data.

    Args:
        coverage: `coverage.Coverage`, started.
        folder: for the script and what it marks.
    """
    from coverage import CoverageData

    from statewise.sandbox import starter

    jail, script, lines = starter.JAIL, folder / "jail.py", folder / "lines"
    lines.write_bytes(bytes(len(jail.read_bytes().split(b"\n")) + 1))
    script.write_text(f"JAIL, LINES = {str(jail)!r}, {str(lines)!r}\n{TRACED}")
    starter.JAIL = script
    try:
        yield
    finally:
        starter.JAIL = jail
        run = [number for number, seen in enumerate(lines.read_bytes()) if seen]
        data = CoverageData(
            Path(coverage.config.data_file).absolute(), suffix=f"jail.{folder.name}"
        )
        data.add_lines({str(jail): run})
        data.write()

"""What a caller shows of the installed packages is all that a program sees, in either jail."""

import email
import json
from pathlib import Path

import pytest

from statewise import sandbox
from statewise.errors import SandboxError
from statewise.eval.rules import shown_packages
from statewise.sandbox import Limits, Package, confined, installation
from statewise.sandbox.confined import run_confined


def offered(kind: str) -> bool:
    try:
        return run_confined(kind, "print(1)", b"", Limits()).stdout == b"1\n"
    except SandboxError:
        return False


NUMPY = sandbox.package("numpy")
EACH_KIND = pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.skipif(not offered(k), reason=f"no {k} here"))
     for k in ("namespaces", "landlock")],
)  # fmt: skip
LOOK = """
import numpy, json, os
found = {"sum": int(numpy.arange(5).sum()), "refused": []}
here = os.path.dirname(numpy.__file__)
ways = {
    "write": lambda: open(numpy.__file__, "a"),
    "make": lambda: open(os.path.join(here, "new"), "w"),
    "remove": lambda: os.unlink(numpy.__file__),
    "beside": lambda: open(os.path.join(os.path.dirname(here), "pytest", "__init__.py")),
    "own": lambda: os.chmod(numpy.__file__, 0o777),
}
for name, way in ways.items():
    try:
        way()
    except OSError:
        found["refused"].append(name)
print(json.dumps(found))
"""


@EACH_KIND
def test_a_package_that_is_shown_can_be_imported_and_nothing_more(kind):
    result = run_confined(kind, shown_packages() + LOOK, b"", Limits(), (NUMPY,))
    assert result.exit_code == 0, result.stderr.decode()
    found = json.loads(result.stdout)
    assert found == {"sum": 10, "refused": ["write", "make", "remove", "beside", "own"]}
    assert (Path(NUMPY.folders[0]).parent / "pytest" / "__init__.py").is_file()


@EACH_KIND
def test_without_being_shown_it_cannot(kind):
    result = run_confined(kind, shown_packages() + LOOK, b"", Limits())
    assert result.exit_code == 1
    assert b"Error" in result.stderr.splitlines()[-1]


@EACH_KIND
def test_a_package_comes_out_alone_of_a_hidden_folder(kind, monkeypatch):
    folder = Path(email.__file__).parent
    hidden = installation.hidden()
    monkeypatch.setattr(confined, "hidden", lambda: [*hidden, str(folder)])
    inner = folder / "mime"
    package = Package(str(inner / "__init__.py"), (str(inner),))
    read = "print(len(open({!r}).read()) >= 0)"
    for path, seen in ((inner / "__init__.py", b"True\n"), (folder / "charset.py", b"")):
        ran = run_confined(kind, read.format(str(path)), b"", Limits(), (package,))
        assert ran.stdout == seen


@EACH_KIND
def test_a_package_may_lie_in_tmp(kind, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "__init__.py").write_text("x = 1\n")
    package = Package(str(folder / "__init__.py"), (str(folder),))
    program = f"print(open({package.init!r}).read())\nopen('own', 'w').write('x')"
    assert run_confined(kind, program, b"", Limits(), (package,)).stdout == b"x = 1\n\n"
    beside = program.replace("here", "beside")
    assert run_confined(kind, beside, b"", Limits(), (package,)).exit_code == 1


@EACH_KIND
def test_a_stack_has_its_own_limit_and_a_program_may_raise_it(kind):
    deep = (
        "import functools, sys\nsys.setrecursionlimit(10**6)\n"
        "@functools.cache\ndef f(n): return n and 1 + f(n - 1)\nprint(f(40_000))"
    )
    assert run_confined(kind, deep, b"", Limits()).exit_code == -11
    wide = Limits(stack_bytes=64 << 20)
    assert run_confined(kind, deep, b"", wide).stdout == b"40000\n"
    raised = "import resource as r\nr.setrlimit(r.RLIMIT_STACK, (1 << 28, r.RLIM_INFINITY))\n"
    assert run_confined(kind, raised + deep, b"", Limits()).stdout == b"40000\n"


@pytest.mark.parametrize("python", ["/nix/store/x/bin/python3.11", "/usr/bin/python3.11"])
def test_the_store_of_nix_is_shown_to_its_own_python_alone(python, monkeypatch):
    monkeypatch.setattr(installation, "interpreter", lambda: python)
    monkeypatch.setattr(installation.os.path, "lexists", lambda path: True)
    shown = installation.shown.__wrapped__()
    assert {python, "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/lib64"} <= set(shown)
    assert ("/nix/store" in shown) is python.startswith("/nix/")


def test_what_is_not_installed_is_left_out():
    assert sandbox.package("no_such_package") is None
    assert sandbox.package("json") is not None
    assert sandbox.package("sys") is None

"""For every test: no network, one thread, reproducible examples."""

import os
import signal

# Before anything imports torch, tokenizers or the hub client: they read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
if not os.path.exists("/dev/nvidiactl"):  # no card: Triton's kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

import sys

import pytest
from hypothesis import HealthCheck, settings

# A suite started in the background of a script inherits a shell's "ignore Ctrl-C", and would pass
# it on to every process that it wants to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Examples are derived from the test itself, so that a run repeats; `--hypothesis-profile explore`
# draws fresh ones, and more of them.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeat", max_examples=25, derandomize=True, database=None, **_common)
settings.register_profile("explore", max_examples=200, **_common)
settings.load_profile("repeat")


# The worst errors are met in the workers' processes and printed by the one that started them.
_errors = {}  # name of a tolerance: (worst error met, its bound)


def _meet(errors):
    for name, (worst, bound) in errors.items():
        _errors[name] = (max(worst, _errors.get(name, (0.0,))[0]), bound)


def pytest_sessionfinish(session):
    tolerances = sys.modules.get("tolerances")
    if tolerances is not None:
        _meet({name: (worst, tolerances.BOUNDS[name]) for name, worst in tolerances.WORST.items()})
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["errors"] = _errors


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is not installed
def pytest_testnodedown(node):
    _meet(getattr(node, "workeroutput", {}).get("errors", {}))


def pytest_terminal_summary(terminalreporter):
    if not _errors:
        return
    terminalreporter.section("worst error under each tolerance")
    for name, (worst, bound) in sorted(_errors.items()):
        terminalreporter.write_line(f"{name:<24} {worst:.1e}  bound {bound:.0e}")


@pytest.fixture(scope="session", autouse=True)
def _jails_are_measured(tmp_path_factory):
    """Where coverage is measured, the jail's lines count: it runs in processes of its own."""
    coverage = sys.modules.get("coverage")
    running = coverage and coverage.Coverage.current()
    if not running:
        yield
        return
    from jail_lines import measured

    with measured(running, tmp_path_factory.mktemp(f"jail-{os.getpid()}-")):
        yield

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


def pytest_terminal_summary(terminalreporter):
    tolerances = sys.modules.get("tolerances")
    if tolerances is None or not tolerances.WORST:
        return
    terminalreporter.section("worst error under each tolerance")
    for name, worst in sorted(tolerances.WORST.items()):
        bound = tolerances.BOUNDS[name]
        terminalreporter.write_line(f"{name:<24} {worst:.1e}  bound {bound:.0e}")

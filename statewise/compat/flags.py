"""What the published commands' flags have in common."""

from __future__ import annotations

import argparse


def true_or_false(text: str) -> bool:
    """A flag's `True` or `False`, as `type` of an argparse argument."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, found {text!r}")

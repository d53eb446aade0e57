"""The Python installation as programs see it."""

from __future__ import annotations

import functools
import os
import sys


@functools.cache
def interpreter() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@functools.cache
def shown() -> list[str]:
    """The paths a program can see: the interpreter, its library, and what the loader needs."""
    prefixes = {os.path.realpath(p) for p in (sys.base_prefix, sys.base_exec_prefix)}
    paths = [interpreter(), "/etc/ld.so.cache", "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    paths += [os.path.join(p, lib) for p in sorted(prefixes) for lib in ("lib", "lib64")]
    if interpreter().startswith("/nix/"):
        paths.append("/nix/store")
    return [p for p in dict.fromkeys(paths) if os.path.lexists(p)]


@functools.cache
def hidden() -> list[str]:
    """Folders of installed packages: a program's result must not depend on them."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = []
    for prefix in dict.fromkeys((os.path.realpath(sys.base_prefix), "/usr", "/usr/local")):
        for lib in ("lib", "lib64"):
            for folder in (version, "python3"):
                for name in ("site-packages", "dist-packages"):
                    path = os.path.join(prefix, lib, folder, name)
                    if os.path.isdir(path) and os.path.realpath(path) == path:
                        folders.append(path)
    return folders

"""The Python installation as programs see it."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from typing import NamedTuple


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


class Package(NamedTuple):
    """An installed package: the file that is imported, and the folders that it is made of."""

    init: str
    folders: tuple[str, ...]


@functools.cache
def package(name: str) -> Package | None:
    """A package as this environment has it; None where it is not installed."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None or not found.submodule_search_locations:
        return None
    init = os.path.realpath(found.origin)
    folder = os.path.dirname(init)
    return Package(init, tuple(f for f in (folder, f"{folder}.libs") if os.path.isdir(f)))

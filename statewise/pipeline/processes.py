"""Several processes in one run: the first owns its folder, the others enter only what is shared.

Processes are those that `accelerate launch`, `torchrun` or `deepspeed` started. A launcher takes
all of them down where one dies.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST = timedelta(days=30)  # that the others wait while the first one writes problems


def count() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """The number of this one, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def told(word: Any) -> Any:
    """What the first process says, in every process; the others wait for it."""
    if count() == 1:
        return word
    import torch.distributed as dist

    words = [word]
    dist.broadcast_object_list(words, src=0, group=_patient())
    return words[0]


def first_then_others(work: Callable[[], T]) -> T:
    """The result of some work in every process; the first does it before the others begin."""
    if index() == 0:
        result = work()
        told(None)
    else:
        told(None)
        result = work()
    return result


def is_lost(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone."""
    import torch.distributed as dist

    if count() == 1:
        return False
    of_a_network = isinstance(error, dist.DistError)  # a process group's, or the store's
    return of_a_network or "gloo" in str(error) or "Connection" in str(error)


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def leave() -> None:
    """Be done with the other processes; torch would abort one that ends without."""
    if count() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


@cache
def _patient() -> Any:
    """A group of all processes that waits for days: the engines' own gives up in minutes."""
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())
    return dist.new_group(backend="gloo", timeout=LONGEST)

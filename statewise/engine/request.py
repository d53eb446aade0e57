"""What callers and a running engine tell one another: requests go in, events come out."""

from __future__ import annotations

from dataclasses import dataclass

from statewise.errors import StatewiseError
from statewise.records import Completion
from statewise.sampler import Prompt, SamplingParams


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt, and how to continue it: `params.n` completions."""

    prompt: Prompt
    params: SamplingParams
    stream: bool = True  # whether each token is an event; without, only the end is told


@dataclass(frozen=True, slots=True)
class Token:
    """A token was drawn; the one that ends a text too."""

    id: int  # of the request, as `Engine.add` gave it
    sample: int
    token: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A completion is there. A request is over with the last of its `n`."""

    id: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class Failed:
    """A request is over without the completions that have not come yet."""

    id: int
    error: StatewiseError


Event = Token | Finished | Failed

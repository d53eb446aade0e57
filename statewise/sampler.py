"""The seam: above it, text; below it, whatever continues text. Nobody above knows torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from statewise.errors import ConfigError
from statewise.records import Completion, FinishReason


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to be continued, and the name its completions carry."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to continue a prompt. The defaults are plain sampling from the model's distribution.

    Sample `i` of a prompt draws from its own stream, named by `(seed, prompt text, i)`: it is the
    same in whatever company, order or slot it is drawn.
    """

    n: int = 1  # completions a prompt
    max_tokens: int = 256
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            ConfigError: naming the parameter and its permitted range.
        """
        ranges = {
            "n": (self.n >= 1, "at least 1"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0 (1 is off)"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (good, rule) in ranges.items():
            if not good:
                raise ConfigError(f"sampling.{name}: must be {rule}, found {getattr(self, name)}")


class Sampler(Protocol):
    """Anything that continues prompts: the engine, the workbook, a script in a test."""

    def sample(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Completion]:
        """Yield `params.n` completions for every prompt, in any order, as they finish."""
        ...


class ScriptedSampler:
    """A sampler that answers from a function: the shipped double for tests and dry runs.

    Args:
        reply: called with the prompt's text and the sample index; returns the completion's text.
            A text longer than `max_tokens` words is cut there with finish reason "length".
    """

    def __init__(self, reply: Callable[[str, int], str]) -> None:
        self._reply = reply

    def sample(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Completion]:
        """Yield the scripted completions, prompt by prompt."""
        for prompt in prompts:
            for i in range(params.n):
                text = self._reply(prompt.text, i)
                words = text.split(" ")
                cut = len(words) > params.max_tokens
                yield Completion(
                    prompt_id=prompt.id,
                    sample=i,
                    text=" ".join(words[: params.max_tokens]) if cut else text,
                    finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP,
                    prompt_tokens=len(prompt.text.split(" ")),
                    completion_tokens=min(len(words), params.max_tokens),
                    seed=params.seed,
                )

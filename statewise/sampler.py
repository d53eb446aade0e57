"""The seam: above it, text; below it, whatever continues text. Nobody above knows torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Literal, Protocol

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


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """Who continues text.

    Attributes:
        kind: "checkpoint" is a model by the engine of this package, "vllm" one by vLLM's, where it
            is installed, "endpoint" a model behind an OpenAI-compatible server, "workbook" the
            built-in procedural author, which plays roles of the synthesis only. "auto" is an
            endpoint where the path is a URL, else a checkpoint.
        path: folder or hub id of a checkpoint, or the base URL of an endpoint
            ("http://localhost:8000/v1").
        served_as: the model's name at the endpoint.
        weights: "int8" decodes with 8-bit projections, on a CPU; "model" as they are.
        dtype: of a checkpoint's large weights; "auto" as stored.
        tokenizer: folder or hub id of a checkpoint's tokenizer, where it does not lie beside it.
        tensor_parallel_size: cards for vLLM.
    """

    kind: Literal["auto", "checkpoint", "endpoint", "vllm", "workbook"] = "auto"
    path: str = ""
    served_as: str = ""
    weights: Literal["model", "int8"] = "model"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tokenizer: str = ""
    tensor_parallel_size: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be asked, and keys that would mean nothing.

        Raises:
            ConfigError: naming the key.
        """
        source, is_url = self.source, self.path.startswith(("http://", "https://"))
        if source != "workbook" and not self.path:
            raise ConfigError(
                f"path: names no model; kind = {self.kind!r} needs a folder, hub id or address"
            )
        if source in ("checkpoint", "vllm") and is_url:
            raise ConfigError(f'path: {self.path} is a URL, which kind = "endpoint" asks')
        if source == "endpoint" and not is_url:
            raise ConfigError(f"path: an endpoint's address begins with http, found {self.path!r}")
        if (source == "endpoint") != bool(self.served_as):
            raise ConfigError("served_as: names the model at an endpoint, which needs it")
        if self.tensor_parallel_size < 1:
            raise ConfigError(
                f"tensor_parallel_size: must be at least 1, found {self.tensor_parallel_size}"
            )
        belongs = {
            "path": ("checkpoint", "vllm", "endpoint"),
            "weights": ("checkpoint",),
            "dtype": ("checkpoint", "vllm"),
            "tokenizer": ("checkpoint", "vllm"),
            "tensor_parallel_size": ("vllm",),
        }
        defaults = {f.name: f.default for f in fields(SamplerConfig)}
        for name, kinds in belongs.items():
            if source not in kinds and getattr(self, name) != defaults[name]:
                told = " or ".join(f'"{kind}"' for kind in kinds)
                raise ConfigError(f"{name}: belongs to kind = {told}, found kind = {source!r}")

    @property
    def source(self) -> Literal["checkpoint", "endpoint", "vllm", "workbook"]:
        """The kind, with "auto" resolved."""
        if self.kind != "auto":
            return self.kind
        return "endpoint" if self.path.startswith(("http://", "https://")) else "checkpoint"

    @property
    def folders(self) -> tuple[str, ...]:
        """What is read from this machine or the hub: folders or hub ids."""
        if self.source not in ("checkpoint", "vllm"):
            return ()
        return tuple(folder for folder in (self.path, self.tokenizer) if folder)


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

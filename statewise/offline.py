"""vLLM in this process as a Sampler: for many sequences on large cards, where it is installed.

Written against vLLM 0.33 (`LLM.llm_engine`, `add_request`, `step`), which asks for another range of
transformers than Statewise does and is therefore no extra of it: install it by hand, or serve with
vLLM in an environment of its own and name its address (`endpoint.py`).

Tokens go in and tokens come out, so prompts and texts are those of `Engine`. Each sample is a
request with a seed of its own, `params.seed + i`; vLLM draws the same again only where its batch is
the same (its own documentation on reproducibility).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from statewise.errors import ConfigError
from statewise.records import Completion, finish_reason
from statewise.sampler import Prompt, SamplingParams
from statewise.text import Tokenizer

UNDER_WAY = 512  # requests handed over at once; the engine chooses how many of them it runs
ROOM = 4096  # tokens of a prompt beyond those that are generated, as the published script has it


def installed() -> bool:
    """Whether vLLM can be imported, and a card is there for it."""
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        return False
    import torch

    return torch.cuda.is_available()


class VLLMSampler:
    """Continues prompts with vLLM's engine.

    Args:
        folder: of the model, in the layout of transformers.
        tokenizer: the model's.
        max_tokens: the most that will be asked for.
        dtype: "bfloat16", "float16", "float32", or "auto": as stored.
        tensor_parallel_size: cards.

    Raises:
        ConfigError: vLLM is not installed.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
    ) -> None:
        try:
            import vllm
        except ImportError:
            raise ConfigError(
                'kind = "vllm": it needs pip install vllm; or serve the model elsewhere and ask it '
                'by its address: kind = "endpoint"'
            ) from None
        self._vllm, self._tokenizer = vllm, tokenizer
        self._engine = vllm.LLM(
            model=str(folder),
            tokenizer=str(folder),
            dtype=dtype,
            tensor_parallel_size=tensor_parallel_size,
            max_model_len=max_tokens + ROOM,
        ).llm_engine

    def sample(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Completion]:
        """Yield `params.n` completions for every prompt, as they finish."""
        asks = ((prompt, i) for prompt in prompts for i in range(params.n))
        running: dict[str, tuple[Prompt, int]] = {}
        more = True
        while more or running:
            while more and len(running) < UNDER_WAY:
                ask = next(asks, None)
                if ask is None:
                    more = False
                    break
                name = f"{ask[0].id} {ask[1]}"
                running[name] = ask
                tokens = {"prompt_token_ids": self._tokenizer.encode(ask[0].text)}
                self._engine.add_request(name, tokens, self._params(params, ask[1]))
            if not running:
                break
            for output in self._engine.step():
                if output.finished:
                    prompt, i = running.pop(output.request_id)
                    yield self._completion(prompt, i, output, params)

    def _params(self, params: SamplingParams, sample: int) -> Any:
        return self._vllm.SamplingParams(
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            repetition_penalty=params.repetition_penalty,
            seed=params.seed + sample,
            stop_token_ids=list(self._tokenizer.end_ids),
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _completion(
        self, prompt: Prompt, sample: int, output: Any, params: SamplingParams
    ) -> Completion:
        made = output.outputs[0]
        tokens = list(made.token_ids)
        text = tokens[:-1] if set(tokens[-1:]) & set(self._tokenizer.end_ids) else tokens
        return Completion(
            prompt_id=prompt.id,
            sample=sample,
            text=self._tokenizer.decode(text),
            finish_reason=finish_reason(made.finish_reason),
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(tokens),
            seed=params.seed + sample,
        )

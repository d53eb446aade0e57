"""Any OpenAI-compatible completions endpoint (vLLM, llama.cpp's server, SGLang, ...) as a Sampler.

Prompts go out as text, to `/completions`: the chat form is ours, not the server's. Sample i of a
prompt asks for seed `params.seed + i`; whether a server keeps that promise under load is its own
affair. top_k, repetition_penalty and skip_special_tokens are no OpenAI parameters but those of the
servers above; they are sent where they say something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from statewise.errors import ConfigError, RunError
from statewise.records import Completion, finish_reason
from statewise.sampler import Prompt, SamplingParams

RETRIES = 5


class EndpointSampler:
    """Continues prompts over HTTP, several at once.

    Args:
        base_url: up to and with `/v1`.
        model: its name there.
        api_key: by default that of the environment (OPENAI_API_KEY); most servers want none.
        concurrency: requests under way.
        timeout_s: of one request.

    Raises:
        ConfigError: the `openai` package is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int = 32,
        timeout_s: float = 3600.0,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise ConfigError(
                "an endpoint needs the client: pip install 'statewise[endpoint]'"
            ) from None
        import os

        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._errors = openai.OpenAIError
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key, timeout=timeout_s, max_retries=RETRIES
        )
        self._url, self._model, self._concurrency = base_url, model, concurrency

    def sample(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Completion]:
        """Yield `params.n` completions for every prompt, as they finish.

        Raises:
            RunError: the endpoint cannot be reached or refuses; it was asked again several times.
        """
        asks = ((prompt, i) for prompt in prompts for i in range(params.n))
        running: set[Future[Completion]] = set()
        with ThreadPoolExecutor(self._concurrency) as pool:
            try:
                for prompt, i in asks:
                    if len(running) >= self._concurrency:
                        done, running = wait(running, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
                    running.add(pool.submit(self._one, prompt, i, params))
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                for future in running:
                    future.cancel()

    def _one(self, prompt: Prompt, sample: int, params: SamplingParams) -> Completion:
        extra: dict[str, Any] = {"skip_special_tokens": False}
        if params.top_k:
            extra["top_k"] = params.top_k
        if params.repetition_penalty != 1:
            extra["repetition_penalty"] = params.repetition_penalty
        try:
            answer = self._client.completions.create(
                model=self._model,
                prompt=prompt.text,
                max_tokens=params.max_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                seed=params.seed + sample,
                extra_body=extra,
            )
        except self._errors as e:
            reason = str(e).partition("\n")[0]
            raise RunError(
                f"{self._url}: {self._model!r} did not answer ({type(e).__name__}: {reason}); "
                "what came before is kept: mend this and give the same command again"
            ) from None
        choice, usage = answer.choices[0], answer.usage
        try:
            ended = finish_reason(choice.finish_reason)
        except ValueError as e:
            raise RunError(f"{self._url}: {self._model!r} answered, but its {e}") from None
        return Completion(
            prompt_id=prompt.id,
            sample=sample,
            text=choice.text,
            finish_reason=ended,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            seed=params.seed + sample,
        )

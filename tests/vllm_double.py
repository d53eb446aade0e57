"""A double of vLLM with the signatures of 0.33, to be put into `sys.modules`."""

import types
from dataclasses import dataclass


@dataclass
class Params:
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int
    stop_token_ids: list
    detokenize: bool
    output_kind: str


class Core:
    """Answers the youngest request with its prompt and seed; cut where two tokens are the most."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.waiting, self.most, self.asked = [], 0, []

    def add_request(self, request_id, prompt, params):
        self.waiting.append((request_id, prompt["prompt_token_ids"], params))
        self.most = max(self.most, len(self.waiting))
        self.asked.append(params)
        return request_id + "-internal"

    def step(self):
        name, prompt, params = self.waiting.pop()
        text = self.tokenizer.encode(f"{self.tokenizer.decode(prompt)}!{params.seed}")
        cut = params.max_tokens == 2
        tokens = text[:2] if cut else [*text, self.tokenizer.eos_id]
        made = types.SimpleNamespace(token_ids=tokens, finish_reason="length" if cut else "stop")
        busy = types.SimpleNamespace(finished=False)
        done = types.SimpleNamespace(
            request_id=name, finished=True, prompt_token_ids=prompt, outputs=[made]
        )
        return [busy, done]


def vllm_double(tokenizer):
    """The module; `loaded` has what engines were made with."""
    made = types.ModuleType("vllm")
    made.loaded = []

    class LLM:
        def __init__(self, **how):
            made.loaded.append(how)
            self.llm_engine = Core(tokenizer)

    made.LLM, made.SamplingParams = LLM, Params
    made.sampling_params = types.SimpleNamespace(
        RequestOutputKind=types.SimpleNamespace(FINAL_ONLY="final")
    )
    return made

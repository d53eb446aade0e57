"""The sampler over vLLM's engine: against a double with the signatures of vLLM 0.33.

vLLM itself needs a card and other versions of torch and transformers than the tests have; where it
is installed, its own names are checked.
"""

import sys

import pytest
from vllm_double import Params, vllm_double

from statewise.errors import ConfigError
from statewise.offline import UNDER_WAY, VLLMSampler, installed
from statewise.records import FinishReason
from statewise.sampler import Prompt, SamplerConfig, SamplingParams
from statewise.text import BPETokenizer

TOKENIZER = BPETokenizer.train(["some words to learn from, 1 + 1 = 2"] * 3, vocab_size=280)


@pytest.fixture
def vllm(monkeypatch):
    double = vllm_double(TOKENIZER)
    monkeypatch.setitem(sys.modules, "vllm", double)
    return double


def test_every_sample_of_every_prompt_comes_once_with_its_own_seed(vllm, tmp_path):
    sampler = VLLMSampler(tmp_path, TOKENIZER, max_tokens=99, tensor_parallel_size=2)
    params = SamplingParams(n=3, max_tokens=9, temperature=0.5, top_p=0.9, seed=7)
    prompts = [Prompt(str(i), f"text {i}") for i in range(300)]
    found = {(c.prompt_id, c.sample): c for c in sampler.sample(prompts, params)}
    assert len(found) == 900
    for (name, i), c in found.items():
        assert c.text == f"text {name}!{7 + i}"
        assert (c.finish_reason, c.seed) == (FinishReason.STOP, 7 + i)
        assert c.completion_tokens == len(TOKENIZER.encode(c.text)) + 1
        assert c.prompt_tokens == len(TOKENIZER.encode(f"text {name}"))
    core = sampler._engine
    assert core.most == UNDER_WAY
    first = core.asked[0]
    assert (first.temperature, first.top_p, first.stop_token_ids) == (0.5, 0.9, [TOKENIZER.eos_id])
    assert vllm.loaded == [{
        "model": str(tmp_path), "tokenizer": str(tmp_path), "dtype": "auto",
        "tensor_parallel_size": 2, "max_model_len": 99 + 4096,
    }]  # fmt: skip


def test_a_completion_that_was_cut_says_so(vllm, tmp_path):
    sampler = VLLMSampler(tmp_path, TOKENIZER, max_tokens=2)
    (c,) = sampler.sample([Prompt("a", "text")], SamplingParams(max_tokens=2))
    assert (c.finish_reason, c.completion_tokens) == (FinishReason.LENGTH, 2)


@pytest.mark.parametrize(
    ("said", "meant"),
    [("stop", "stop"), ("length", "length"), ("abort", "length"), (None, "stop")],
)
def test_a_completion_that_another_end_stopped_is_without_it(
    vllm, tmp_path, monkeypatch, said, meant
):
    tokenizer = BPETokenizer(TOKENIZER._inner, ends=(2, 1))
    sampler = VLLMSampler(tmp_path, tokenizer, max_tokens=99)
    step = sampler._engine.step

    def ended_by_2():
        outputs = step()
        made = outputs[1].outputs[0]
        made.token_ids[-1], made.finish_reason = 2, said
        return outputs

    monkeypatch.setattr(sampler._engine, "step", ended_by_2)
    (c,) = sampler.sample([Prompt("a", "text")], SamplingParams(seed=7))
    assert (c.text, c.finish_reason) == ("text!7", meant)
    assert sampler._engine.asked[0].stop_token_ids == [0, 1, 2]


def test_without_vllm_the_user_is_told_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="pip install vllm; or serve the model elsewhere"):
        VLLMSampler(tmp_path, TOKENIZER, max_tokens=2)


@pytest.mark.parametrize(
    ("made", "told"),
    [(lambda: SamplerConfig("vllm", "http://x/v1"), "is a URL"),
     (lambda: SamplerConfig("vllm", "m", weights="int8"), "weights: belongs to kind"),
     (lambda: SamplerConfig("vllm", "m", tensor_parallel_size=0), "must be at least 1, found 0"),
     (lambda: SamplerConfig("checkpoint", "m", tensor_parallel_size=2), "belongs to kind")],
)  # fmt: skip
def test_what_vllm_cannot_do_is_refused(made, told):
    with pytest.raises(ConfigError, match=told):
        made()


def test_the_real_one_has_the_names_that_are_used():
    if not installed():
        pytest.skip("vLLM is not installed beside a card")
    import inspect

    import vllm
    from vllm.v1.engine.llm_engine import LLMEngine

    accepted = set(inspect.signature(vllm.SamplingParams).parameters)
    assert set(Params.__dataclass_fields__) <= accepted
    assert list(inspect.signature(LLMEngine.add_request).parameters)[1:4] == [
        "request_id", "prompt", "params"
    ]  # fmt: skip
    assert vllm.sampling_params.RequestOutputKind.FINAL_ONLY is not None

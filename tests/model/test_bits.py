"""What the kernels promise to the bit, in float32: a text's numbers are its own.

Neither the documents beside it in a row, nor the rows beside it in a batch, nor a cut of its
prefill at a chunk's boundary, nor the number of threads changes one bit of a logit or a state.
(Gradients of weights are sums over all tokens, and are equal within rounding only.)
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import SEEDS, configs, random_state, row, tiny_model, tokens

from statewise.model import Mamba2Config
from statewise.model.cpu.scan import CHUNK
from statewise.model.layout import Layout

GRADIENTS = st.booleans()  # with them, other branches of the kernels keep more than without


def equal(found, expected):
    assert torch.equal(found.logits, expected.logits)
    equal_states(found.state, expected.state)


def equal_states(found, expected):
    assert torch.equal(found.conv, expected.conv)
    assert torch.equal(found.ssm, expected.ssm)
    assert torch.equal(found.position, expected.position)


def compiled(data):
    config, seed = data.draw(configs(backend="cpu")), data.draw(SEEDS)
    return tiny_model(config, seed, "cpu"), seed


@given(data=st.data(), gradients=GRADIENTS)
def test_a_packed_document_is_the_separate_one_in_any_company_and_order(data, gradients):
    model, seed = compiled(data)
    lengths = data.draw(st.lists(st.sampled_from([1, 2, 31, 32, 33, 64, 65, 100]), min_size=1))
    texts = [tokens(model.config, 1, n, seed + i) for i, n in enumerate(lengths)]
    order = data.draw(st.permutations(range(len(texts))))
    layout = Layout.of([[lengths[i] for i in order]])
    with torch.set_grad_enabled(gradients):
        packed = model(torch.cat([texts[i] for i in order], dim=1), layout=layout)
        begin = 0
        for i in order:
            alone = model(texts[i])
            assert torch.equal(packed.logits[:, begin : begin + lengths[i]], alone.logits)
            begin += lengths[i]
    equal_states(packed.state, alone.state)


@given(data=st.data(), l=st.integers(1, 150), gradients=GRADIENTS)
def test_a_prefill_cut_at_the_boundaries_of_chunks_is_the_whole_one(data, l, gradients):
    model, seed = compiled(data)
    text, start = tokens(model.config, 2, l, seed), random_state(model.config, 2, seed)
    start.position[1] = start.position[0]  # one grid for both
    grid = [t for t in range(1, l) if (int(start.position[0]) + t) % CHUNK == 0]
    cuts = [*sorted(data.draw(st.sets(st.sampled_from(grid))) if grid else []), l]
    with torch.set_grad_enabled(gradients):
        whole = model(text, start)
        state, logits, begin = start, [], 0
        for stop in cuts:
            out = model(text[:, begin:stop], state)
            logits.append(out.logits)
            state, begin = out.state, stop
    assert torch.equal(torch.cat(logits, dim=1), whole.logits)
    equal_states(state, whole.state)


@given(data=st.data(), l=st.integers(1, 100), b=st.integers(1, 20))
def test_a_row_is_the_same_in_every_batch(data, l, b):
    model, seed = compiled(data)
    text, start = tokens(model.config, b, l, seed), random_state(model.config, b, seed)
    together = model(text, start)
    i = data.draw(st.integers(0, b - 1))
    alone = model(text[i : i + 1], row(start, i))
    assert torch.equal(together.logits[i : i + 1], alone.logits)
    equal_states(row(together.state, i), alone.state)


@pytest.mark.parametrize("gradients", [False, True])
def test_the_last_logits_alone_are_as_in_company(gradients):
    model = tiny_model(Mamba2Config(d_model=48, headdim=16, d_state=16, vocab_size=50))
    text = tokens(model.config, 2, 40)
    with torch.set_grad_enabled(gradients):
        kept = model(text[:1], logits_to_keep=1).logits
        assert torch.equal(kept, model(text).logits[:1, -1:])


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_nothing(threads):
    config = Mamba2Config(d_model=128, n_layer=2, d_state=32, headdim=16, ngroups=8, vocab_size=50)
    model, text = tiny_model(config, backend="cpu"), tokens(config, 3, 140)
    expected = model(text)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        equal(model(text), expected)
    finally:
        torch.set_num_threads(before)

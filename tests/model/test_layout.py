"""Which documents stand where: one value, however it was described, and what is derived from it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import BACKENDS, tiny_model, tokens
from tolerances import within

from statewise.errors import DataError
from statewise.model import Mamba2Config
from statewise.model.layout import Layout
from statewise.model.ssd import ChunkTable
from statewise.train.packing import Document, pack

CPU = torch.device("cpu")
CONFIG = Mamba2Config(d_model=16, n_layer=2, d_state=16, headdim=16, chunk_size=4, vocab_size=20)
FIELDS = ("row", "start", "length", "position", "carries", "last")


@st.composite
def rows_of_documents(draw):
    """Lengths of the documents of some rows, all rows equally long."""
    l = draw(st.integers(1, 30))
    ends = [sorted(draw(st.sets(st.integers(1, l), max_size=4)) | {l}) for _ in range(3)]
    return [np.diff([0, *row]).tolist() for row in ends[: draw(st.integers(1, 3))]]


def numbered(rows):
    """Numbers of which neighbours differ, and which recur."""
    return torch.tensor([np.repeat(np.arange(len(row)) % 2 + 5, row).tolist() for row in rows])


@given(rows_of_documents())
def test_lengths_and_document_numbers_describe_the_same_layout(rows):
    of, by_number = Layout.of(rows), Layout.numbered(numbered(rows))
    for name in FIELDS:
        assert getattr(of, name).tolist() == getattr(by_number, name).tolist()
    assert (of.rows, of.columns) == (len(rows), sum(rows[0]))
    assert of.packed == any(len(row) > 1 for row in rows)
    assert of.length.tolist() == [n for row in rows for n in row]


@given(rows_of_documents())
def test_numbers_and_ages_say_of_each_token_where_it_stands(rows):
    layout = Layout.of(rows)
    for i, row in enumerate(rows):
        assert layout.numbers(CPU)[i].tolist() == np.repeat(np.arange(len(row)), row).tolist()
        assert layout.ages(CPU)[i].tolist() == [t for n in row for t in range(n)]


def test_rows_without_boundaries_are_one_document_each():
    whole = Layout.whole(3, 7)
    assert not whole.packed
    for name in FIELDS:
        assert getattr(whole, name).tolist() == getattr(Layout.of([[7]] * 3), name).tolist()


@given(rows_of_documents())
def test_a_position_is_that_of_the_first_document_of_a_row_and_of_no_other(rows):
    layout, position = Layout.of(rows), torch.arange(len(rows)) * 10 + 3
    later = layout.continuing(position)
    assert later.position[later.carries].tolist() == position.tolist()
    assert not later.position[~later.carries].any()
    assert not layout.position.any()
    expected = [row[-1] + (10 * i + 3) * (len(row) == 1) for i, row in enumerate(rows)]
    assert later.next_position().tolist() == expected


@given(rows_of_documents(), st.data())
def test_columns_of_rows_are_rows_that_go_on_where_the_columns_before_them_end(rows, data):
    layout = Layout.of(rows).continuing(torch.arange(len(rows)) * 10)
    cuts = sorted(data.draw(st.sets(st.integers(1, layout.columns), max_size=3)) - {layout.columns})
    bounds = [0, *cuts, layout.columns]
    read = layout.position[layout.carries]
    for begin, end in pairwise(bounds):
        part = layout.columns_of(begin, end)
        assert (part.rows, part.columns) == (layout.rows, end - begin)
        # Each token is where it is in its document, and documents change where they do.
        own, whole = documents_of(part), documents_of(layout)
        assert np.array_equal(own, whole[:, begin:end])
        assert np.array_equal(part.carries, part.start == 0)
        # A document goes on from what is read, or begins.
        first = part.position[part.carries]
        assert all(f in (0, r) for f, r in zip(first, read, strict=True))
        read = part.next_position().numpy()
    assert np.array_equal(read, layout.next_position().numpy())


@pytest.mark.parametrize("backend", BACKENDS)
def test_columns_that_are_handed_a_state_have_the_gradients_of_whole_rows(backend):
    model, text = tiny_model(CONFIG, 0, backend), tokens(CONFIG, 1, 90)
    layout = Layout.of([[25, 65]])

    def gradients(*bounds):
        total, state = torch.zeros(()), None
        for begin, end in pairwise(bounds):
            columns = layout.columns_of(begin, end)
            hidden, state = model.hidden(text[:, begin:end], state, layout=columns)
            total = total + model.head(hidden).square().mean(-1).sum()
        return torch.autograd.grad(total, list(model.parameters()))

    for found, whole in zip(gradients(0, 40, 71, 90), gradients(0, 90), strict=True):
        within(found, whole, "model-gradient")


def documents_of(layout):
    """(b, l) how many tokens of its document each token has behind it, in any row."""
    ages = layout.ages(CPU).numpy()
    return ages + np.repeat(layout.position, layout.length).reshape(ages.shape)


def test_what_is_derived_is_made_once_and_not_taken_over_by_other_positions():
    layout = Layout.of([[3, 9]])
    table = ChunkTable.of(layout, 4, CPU)
    assert ChunkTable.of(layout, 4, CPU) is table
    assert ChunkTable.of(layout, 8, CPU) is not table
    assert layout.numbers(CPU) is layout.numbers(CPU)
    later = ChunkTable.of(layout.continuing(torch.tensor([2])), 4, CPU)
    assert later.valid.tolist() != table.valid.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_layout_that_a_prefill_has_used_serves_training(backend):
    """Tensors made in inference mode may not be kept for a backward pass."""
    model, text = tiny_model(CONFIG, 0, backend), tokens(CONFIG, 1, 12)
    layout = Layout.of([[3, 9]])
    with torch.inference_mode():
        expected = model(text, layout=layout).logits
    found = model(text, layout=layout).logits
    found.sum().backward()
    assert torch.equal(found.detach(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_packed_forward_asks_no_tensor_where_its_documents_are(backend, monkeypatch):
    """Neither numbers nor positions are copied to the host: packing knew the lengths."""
    model = tiny_model(CONFIG, 0, backend)
    docs = [Document(np.arange(n, dtype=np.int32), 1) for n in (5, 9)]
    row = pack(docs)
    assert row.layout.length.tolist() == [5, 9, 50]
    copied = []
    for name in ("cpu", "item", "tolist", "nonzero"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda t, *a, _r=real, _n=name: (copied.append(_n), _r(t, *a))[1]
        )
    model.hidden(row.tokens, layout=row.layout)
    assert copied == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Layout.of([[3, 4], [6]]), r"rows of \[6, 7\] tokens"),
        (lambda: Layout.of([[3, 0]]), "shortest document with 0"),
        (lambda: Layout.of([[3], []]), "found rows of"),
        (lambda: Layout.of([]), "found rows of"),
        (lambda: Layout.whole(0, 4), "found 0 rows of 4"),
        (lambda: Layout.numbered(torch.zeros(4)), r"found \(4,\)"),
        (lambda: Layout.whole(2, 4).continuing(torch.zeros(3)), "2 rows need as many positions"),
    ],
)
def test_what_describes_no_rows_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [[[5, 6]], [[6, 6]] * 2])
def test_a_layout_of_other_rows_than_the_tokens_is_refused(backend, rows):
    model = tiny_model(CONFIG, 0, backend)
    with pytest.raises(DataError, match=r"describes . rows of 1. tokens, .* shape \(1, 12\)"):
        model(tokens(CONFIG, 1, 12), layout=Layout.of(rows))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_of_other_rows_than_the_tokens_is_refused(backend):
    model = tiny_model(CONFIG, 0, backend)
    with pytest.raises(DataError, match="2 rows need as many positions"):
        model(tokens(CONFIG, 2, 12), model.zero_state(3))

"""The laws of the recurrence. Algebra is checked in float64, where rounding hides nothing."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import within

from statewise.model import ssd_chunked, ssd_recurrent, ssd_step
from statewise.model.layout import Layout
from statewise.model.ssd import ChunkTable

NAMES = ("x", "dt", "A", "B", "C", "state")
LENGTHS = st.one_of(st.integers(1, 130), st.integers(1, 20), st.sampled_from([63, 64, 65]))
CHUNKS = st.one_of(st.integers(1, 40), st.sampled_from([16, 64, 200]))


class Case(NamedTuple):
    """The arguments of the recurrence, and weights for a scalar that depends on all it returns."""

    x: torch.Tensor
    dt: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    state: torch.Tensor
    y_weight: torch.Tensor
    state_weight: torch.Tensor


def make_case(seed, *, b, l, g, r, p, n, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    h = g * r

    def normal(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    dt = torch.nn.functional.softplus(2 * normal(b, l, h) - 2)
    A = -torch.exp(normal(h))
    return Case(
        normal(b, l, h, p),
        dt,
        A,
        normal(b, l, g, n),
        normal(b, l, g, n),
        normal(b, h, p, n),
        normal(b, l, h, p),
        normal(b, h, p, n),
    )


@st.composite
def cases(draw, lengths=LENGTHS, dtype=torch.float64):
    g = draw(st.sampled_from([1, 2, 8]))
    small = st.integers(1, 4)
    return make_case(
        draw(st.integers(0, 2**31 - 1)),
        b=draw(st.integers(1, 3)),
        l=draw(lengths),
        g=g,
        r=draw(st.integers(1, 3)),
        p=draw(small),
        n=draw(small),
        dtype=dtype,
    )


def run(form, case, *, state=True, **options):
    """`(y, final state, gradients by name)` of one form of the recurrence."""
    leaves = [t.clone().requires_grad_() for t in case[:6]]
    given_state = leaves[5] if state else None
    y, final = form(*leaves[:5], state=given_state, **options)
    scalar = (y * case.y_weight).sum() + (final * case.state_weight).sum()
    wanted = leaves if state else leaves[:5]
    return y, final, dict(zip(NAMES, torch.autograd.grad(scalar, wanted), strict=False))


def agree(found, expected, name="ssd-float64", gradient_name="ssd-float64"):
    within(found[0], expected[0], name, "outputs")
    within(found[1], expected[1], name, "final state")
    for key, gradient in expected[2].items():
        within(found[2][key], gradient, gradient_name, f"gradient of {key}")


def piece(case, start, stop, state):
    return [t[:, start:stop] for t in (case.x, case.dt)] + [
        case.A,
        case.B[:, start:stop],
        case.C[:, start:stop],
        state,
    ]


@given(cases(), CHUNKS, st.booleans())
def test_the_chunked_form_is_the_recurrence_in_outputs_gradients_and_state(case, q, has_state):
    expected = run(ssd_recurrent, case, state=has_state)
    agree(run(ssd_chunked, case, state=has_state, chunk_size=q), expected)


@given(cases(dtype=torch.float32), CHUNKS)
def test_in_float32_the_chunked_form_is_the_recurrence_within_rounding(case, q):
    exact = Case(*(t.double() for t in case))
    expected = run(ssd_recurrent, exact)
    for found in (run(ssd_chunked, case, chunk_size=q), run(ssd_recurrent, case)):
        assert found[0].dtype == found[1].dtype == torch.float32
        agree(found, expected, "ssd-float32", "ssd-float32-gradient")


@pytest.mark.parametrize("length", [1, 63, 64, 65, 500])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_lengths_around_a_chunk_of_64_and_long_ones_are_not_special(length, groups):
    case = make_case(length, b=1, l=length, g=groups, r=2, p=3, n=5)
    agree(run(ssd_chunked, case, chunk_size=64), run(ssd_recurrent, case))


@given(cases())
def test_single_steps_are_the_recurrence(case):
    y, final, _ = run(ssd_recurrent, case)
    state = case.state.clone()
    for t in range(case.x.shape[1]):
        found = ssd_step(state, case.x[:, t], case.dt[:, t], case.A, case.B[:, t], case.C[:, t])
        within(found, y[:, t], "ssd-float64", f"output {t}")
    within(state, final, "ssd-float64", "final state")


@given(cases(), st.data())
def test_a_sequence_may_be_cut_anywhere_and_resumed(case, data):
    b, l = case.x.shape[:2]
    cuts = sorted(data.draw(st.sets(st.integers(1, l), max_size=4)) | {l})
    sizes = [data.draw(CHUNKS) for _ in cuts]

    read = torch.tensor(data.draw(st.lists(st.integers(0, 99), min_size=b, max_size=b)))

    def resumed(x, dt, A, B, C, *, state):
        whole = Case(x, dt, A, B, C, state, case.y_weight, case.state_weight)
        ys, start = [], 0
        for stop, q in zip(cuts, sizes, strict=True):
            *args, before = piece(whole, start, stop, state)
            layout = Layout.whole(*args[0].shape[:2]).continuing(read + start)
            y, state = ssd_chunked(*args, state=before, chunk_size=q, layout=layout)
            ys.append(y)
            start = stop
        return torch.cat(ys, dim=1), state

    agree(run(resumed, case), run(ssd_recurrent, case))


@st.composite
def packed_cases(draw):
    """A case and, for each row, the lengths of the documents in it."""
    case = draw(cases(st.integers(1, 60)))
    b, l = case.x.shape[:2]
    documents = []
    for _ in range(b):
        ends = sorted(draw(st.sets(st.integers(1, l), max_size=5)) | {l})
        documents.append([stop - start for start, stop in zip([0, *ends], ends, strict=False)])
    return case, documents


def number(documents):
    """Document numbers that only promise to change from one document to the next."""
    rows = [[i % 3 for i, n in enumerate(row) for _ in range(n)] for row in documents]
    return torch.tensor(rows)


@given(packed_cases(), CHUNKS, st.booleans())
def test_packed_documents_are_separate_documents(packed, q, has_state):
    case, documents = packed

    def separate(x, dt, A, B, C, *, state):
        rows, finals = [], []
        for i, lengths in enumerate(documents):
            before = None if state is None else state[i : i + 1]
            ys, start = [], 0
            for length in lengths:
                of = slice(start, start + length)
                args = (x[i : i + 1, of], dt[i : i + 1, of], A, B[i : i + 1, of], C[i : i + 1, of])
                y, final = ssd_recurrent(*args, state=before)
                ys.append(y)
                before, start = None, start + length  # the next document starts from zero
            rows.append(torch.cat(ys, dim=1))
            finals.append(final)
        return torch.cat(rows), torch.cat(finals)

    expected = run(separate, case, state=has_state)
    agree(run(ssd_recurrent, case, state=has_state, seq_idx=number(documents)), expected)
    layout = Layout.of(documents).continuing(torch.arange(len(documents)) * 7)
    agree(run(ssd_chunked, case, state=has_state, chunk_size=q, layout=layout), expected)


@given(packed_cases(), st.data(), CHUNKS)
def test_the_order_of_packed_documents_changes_nothing_but_their_place(packed, data, q):
    case, documents = packed
    l = case.x.shape[1]
    orders = [data.draw(st.permutations(range(len(row)))) for row in documents]
    moved = []  # of each row, where its tokens come from
    for lengths, order in zip(documents, orders, strict=True):
        ends = torch.tensor(lengths).cumsum(0)
        moved.append(torch.cat([torch.arange(ends[i] - lengths[i], ends[i]) for i in order]))
    index = torch.stack(moved) + l * torch.arange(len(documents))[:, None]

    def shuffled(t):
        return t.flatten(0, 1)[index]

    def rearranged(x, dt, A, B, C, *, state):
        x, dt, B, C = map(shuffled, (x, dt, B, C))
        other = Layout.of(
            [[row[i] for i in order] for row, order in zip(documents, orders, strict=True)]
        )
        y, _ = ssd_chunked(x, dt, A, B, C, chunk_size=q, state=state, layout=other)
        back = torch.empty_like(y.flatten(0, 1)).index_copy(0, index.flatten(), y.flatten(0, 1))
        return back.view_as(y), case.state  # another document is last

    def in_order(*args, state):
        return ssd_chunked(
            *args, chunk_size=q, state=state, layout=Layout.of(documents)
        ).y, case.state

    agree(*(run(form, case, state=False) for form in (rearranged, in_order)))


@given(packed_cases(), CHUNKS, st.data())
def test_chunks_are_cut_at_multiples_of_their_size_from_a_documents_beginning(packed, q, data):
    _, documents = packed
    b, l = len(documents), sum(documents[0])
    read = data.draw(st.lists(st.integers(0, 300), min_size=b, max_size=b))
    described = Layout.of(documents).continuing(torch.tensor(read))
    table = ChunkTable.build(described, q)
    chunk_of = table.places // q
    after, start = [], 0
    for first, lengths in zip(read, documents, strict=True):
        behind = first
        for length in lengths:
            grid = torch.arange(behind, behind + length) // q
            chunks = chunk_of[start : start + length]
            assert torch.equal(grid.diff() > 0, chunks.diff() != 0)
            assert chunks.unique().numel() == grid.unique().numel()
            start, end = start + length, behind + length
            behind = 0
        after.append(end)
    assert described.next_position().tolist() == after
    assert table.valid.sum() == b * l
    assert table.last_chunk.tolist() == chunk_of[l - 1 :: l].tolist()


@given(packed_cases(), CHUNKS)
def test_the_incoming_state_is_not_written_to(packed, q):
    case, documents = packed
    before = case.state.clone()
    for seq_idx, layout in ((None, None), (number(documents), Layout.of(documents))):
        ssd_chunked(*case[:5], state=case.state, chunk_size=q, layout=layout)
        ssd_recurrent(*case[:5], state=case.state, seq_idx=seq_idx)
        assert torch.equal(case.state, before)


@given(packed_cases())
def test_a_chunk_of_a_document_does_not_reach_into_the_next_one(packed):
    case, documents = packed
    layout = Layout.of(documents)
    other = case.x.clone()
    last = torch.stack([torch.arange(case.x.shape[1]) >= sum(row[:-1]) for row in documents])
    other[last] = torch.nan
    y = ssd_chunked(other, *case[1:5], state=case.state, chunk_size=7, layout=layout).y
    assert torch.isfinite(y[~last]).all()
    assert torch.isnan(y[last]).all()


def test_a_decay_beyond_the_range_of_float32_gives_no_nan():
    case = make_case(0, b=1, l=70, g=1, r=2, p=3, n=2, dtype=torch.float32)
    strong = case._replace(dt=case.dt + 50, A=case.A * 100)
    y, final, gradients = run(ssd_chunked, strong, chunk_size=32)
    for t in (y, final, *gradients.values()):
        assert torch.isfinite(t).all()

"""Packed rows: what stands in them, what carries loss, and where the stream may be entered."""

import json
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import within
from training_doubles import documents, small_model, some_documents

from statewise.records import Example
from statewise.text import END_THINK, BPETokenizer, chat_prompt
from statewise.train import packing
from statewise.train.config import Columns, Phase, Source
from statewise.train.loss import SummedLoss
from statewise.train.packing import Document, Stream, best_fit, pack, tokenise

SEEDS = st.integers(0, 2**31 - 1)
WINDOW = 3
PACKINGS = st.sampled_from(["in-order", "best-fit"])
ORDERS = st.sampled_from(["shuffled", "easy-to-hard"])


@pytest.fixture(scope="module", autouse=True)
def small_windows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "WINDOW", WINDOW)
        yield


def phase(*weights, name="a", order="shuffled"):
    columns = Columns(pass_rate="right")
    sources = tuple(Source(str(i), w, columns=columns) for i, w in enumerate(weights))
    return Phase(name, sources, 1000, 1e-3, order=order)


class Rated(list):
    """Documents with pass rates, some of which are equal."""

    def __init__(self, documents, seed=0):
        super().__init__(documents)
        self.pass_rates = np.random.default_rng(seed).integers(0, 4, len(documents)) / 4


def as_key(document):
    return (tuple(document.ids), document.num_prompt)


def numbers(row):
    return row.layout.numbers(row.tokens.device)


@given(documents())
def test_a_row_is_its_documents_one_behind_the_other(docs):
    row = pack(docs)
    for i, d in enumerate(docs):
        assert row.tokens[numbers(row) == i].tolist() == d.ids.tolist()
    assert numbers(row)[0].tolist() == sorted(numbers(row)[0].tolist())
    assert {t.dtype for t in (row.tokens, row.targets)} == {torch.int64}
    assert row.tokens.shape == numbers(row).shape == row.targets.shape == (1, row.num_tokens)


@given(documents())
def test_what_fills_a_row_up_is_a_document_of_its_own_without_loss(docs):
    row = pack(docs)
    total = sum(len(d.ids) for d in docs)
    assert row.num_tokens - total < 64
    assert numbers(row)[0, total:].tolist() == [len(docs)] * (row.num_tokens - total)
    assert (row.targets[0, total:] == -100).all()


@given(documents())
def test_targets_are_the_completion_and_the_end_one_place_earlier_and_nothing_else(docs):
    row = pack(docs)
    for i, d in enumerate(docs):
        targets = row.targets[numbers(row) == i].tolist()
        before, rest = d.num_prompt - 1, targets[d.num_prompt - 1 :]
        assert targets[:before] == [-100] * before
        assert rest == [*d.ids[d.num_prompt :].tolist(), -100]
    assert row.num_targets == sum(len(d.ids) - d.num_prompt for d in docs)


@given(documents(max_length=90), st.integers(1, 4))
def test_parts_of_a_row_are_equally_long_and_have_every_target_once(docs, count):
    row = pack(docs, count)
    parts = [row.part(i, count) for i in range(count)]
    assert {part.num_tokens for part in parts} == {row.num_tokens // count}
    assert row.num_tokens // count % 64 == 0
    assert torch.equal(torch.cat([part.tokens for part in parts], dim=1), row.tokens)
    assert torch.equal(torch.cat([part.targets for part in parts], dim=1), row.targets)
    for i, part in enumerate(parts):
        begin = i * part.num_tokens
        of = row.layout.columns_of(begin, begin + part.num_tokens)
        assert part.layout.position.tolist() == of.position.tolist()
        part.layout.check(part.tokens)


@given(documents(), SEEDS, st.sampled_from([1, 2, 4]))
def test_packing_does_not_change_the_loss(docs, seed, ngroups):
    model = small_model(seed, d_model=16, headdim=4, ngroups=ngroups)
    loss = SummedLoss(model)
    with torch.no_grad():
        alone = sum(loss(pack([d])) for d in docs)
        within(loss(pack(docs)), alone, "model", "loss of a packed row")


@given(documents(max_size=4), SEEDS)
def test_packing_does_not_change_the_gradient(docs, seed):
    model = small_model(seed)
    loss = SummedLoss(model)
    names, parameters = zip(*model.named_parameters(), strict=True)
    alone = torch.autograd.grad(sum(loss(pack([d])) for d in docs), parameters)
    packed = torch.autograd.grad(loss(pack(docs)), parameters)
    for name, found, expected in zip(names, packed, alone, strict=True):
        within(found, expected, "model-gradient", name)


def test_the_loss_is_cross_entropy_summed_over_the_targets():
    model, doc = small_model(), Document(np.array([3, 5, 7, 2, 9], dtype=np.int32), 2)
    with torch.no_grad():
        logits = model(torch.tensor([[3, 5, 7, 2, 9]])).logits[0]
        expected = -sum(
            torch.log_softmax(logits[at], -1)[token] for at, token in [(1, 7), (2, 2), (3, 9)]
        )
        within(SummedLoss(model)(pack([doc])), expected, "model")


@given(documents(), SEEDS)
def test_logits_in_pieces_are_the_same_loss_and_gradient(docs, seed):
    model, row = small_model(seed), pack(docs)
    loss, parameters = SummedLoss(model), tuple(model.parameters())
    whole = loss(row)
    expected = torch.autograd.grad(whole, parameters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("statewise.train.loss.LOGIT_ROWS", 16)
        pieces = loss(row)
        found = torch.autograd.grad(pieces, parameters)
    within(pieces.detach(), whole.detach(), "model")
    for a, b in zip(found, expected, strict=True):
        within(a, b, "model-gradient")


@given(documents(min_size=2), SEEDS, st.integers(20, 60), PACKINGS)
def test_rows_keep_to_their_limit_and_lose_no_document(docs, seed, row_tokens, packing):
    """Every pass over the pool holds every document once, whole, whatever the rows are."""
    rows = Stream(phase(1.0), [docs], row_tokens=row_tokens, seed=seed, packing=packing)
    passes, seen = 3, []
    while len(seen) < passes * len(docs):
        row = next(rows)
        assert 0 < sum(len(d.ids) for d in row) <= row_tokens
        seen += row
    each = sorted(as_key(d) for d in docs)
    for i in range(passes):
        one = seen[i * len(docs) : (i + 1) * len(docs)]
        assert sorted(as_key(d) for d in one) == each


@given(documents(min_size=2), SEEDS, st.integers(20, 60))
def test_a_row_ends_only_where_the_next_document_does_not_fit(docs, seed, row_tokens):
    rows = list(islice(Stream(phase(1.0), [docs], row_tokens=row_tokens, seed=seed), 8))
    for row, following in pairwise(rows):
        assert sum(len(d.ids) for d in row) + len(following[0].ids) > row_tokens


def read_through(phase, pools, *, row_tokens, seed, packing):
    """The definition: a stream that can only be read from its beginning."""
    rng = np.random.default_rng([seed, *phase.name.encode()])
    weights = np.array([s.weight for s in phase.sources])

    def endless(pool, own):
        while True:
            order = list(own.permutation(len(pool)))
            if phase.order == "easy-to-hard":
                order.sort(key=lambda i: -pool.pass_rates[i])
            for at, i in enumerate(order, start=1):
                yield pool[i], at == len(order)

    def drawn():
        sources = [endless(pool, rng.spawn(1)[0]) for pool in pools]
        while True:
            choice = int(rng.choice(len(pools), p=weights / weights.sum())) if len(pools) > 1 else 0
            yield next(sources[choice])

    row, used = [], 0
    for document, ends_a_pass in drawn():
        if packing == "best-fit":
            row.append(document)
            used += len(document.ids)
            if used >= WINDOW * row_tokens or ends_a_pass:
                for numbers in best_fit([len(d.ids) for d in row], row_tokens):
                    yield [row[i] for i in numbers]
                row, used = [], 0
            continue
        if used + len(document.ids) > row_tokens:
            yield row
            row, used = [], 0
        row.append(document)
        used += len(document.ids)


@given(
    st.lists(documents(min_size=2).map(Rated), min_size=1, max_size=3),
    SEEDS,
    st.integers(0, 30),
    PACKINGS,
    ORDERS,
)
def test_the_stream_is_a_function_of_its_seed_and_may_be_entered_anywhere(
    pools, seed, left, packing, order
):
    """Also behind several passes; the state is plain JSON."""
    how = {"row_tokens": 40, "seed": seed, "packing": packing}
    mixed = phase(*[1.0, 2.0, 0.5][: len(pools)], order=order)
    expected = [
        [as_key(d) for d in row] for row in islice(read_through(mixed, pools, **how), left + 12)
    ]
    rows = Stream(mixed, pools, **how)
    assert [[as_key(d) for d in row] for row in islice(rows, left)] == expected[:left]
    state = json.loads(json.dumps(rows.state()))
    entered = Stream(mixed, pools, **how)
    entered.enter(state)
    assert [[as_key(d) for d in row] for row in islice(entered, 12)] == expected[left:]
    assert [[as_key(d) for d in row] for row in islice(rows, 12)] == expected[left:]
    assert entered.state() == rows.state()
    assert entered.seen() == rows.seen()


@given(st.lists(documents(min_size=2), min_size=1, max_size=3), SEEDS, st.integers(0, 40), PACKINGS)
def test_what_was_seen_of_each_source_is_what_its_rows_held(pools, seed, count, packing):
    """Documents are marked by their source and number, so that equal ones are told apart."""
    marked = [
        [Document(np.array([i, n, *[0] * len(d.ids)]), 1) for n, d in enumerate(pool)]
        for i, pool in enumerate(pools)
    ]
    mixed = phase(*[1.0, 2.0, 0.5][: len(pools)])
    stream = Stream(mixed, marked, row_tokens=40, seed=seed, packing=packing)
    rows = list(islice(stream, count))
    read = [d for row in rows for d in row]
    for i, (seen, pool) in enumerate(zip(stream.seen(), pools, strict=True)):
        own = [d for d in read if d.ids[0] == i]
        assert seen.samples == len(own)
        assert seen.tokens == sum(len(d.ids) for d in own)
        assert seen.documents == len({d.ids[1] for d in own})
        assert seen.passes == len(own) / len(pool)
    assert stream.rows == count
    assert stream.filled == (sum(len(d.ids) for d in read) / (40 * count) if count else 0.0)


LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@given(LENGTHS, st.integers(40, 60))
def test_best_fit_takes_every_length_once_and_leaves_one_row_half_empty_at_most(lengths, capacity):
    rows = best_fit(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(row == sorted(row) for row in rows)
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert all(used <= capacity for used in sums)
    assert sum(2 * used <= capacity for used in sums) <= 1


def test_best_fit_puts_each_where_the_least_is_left():
    assert best_fit([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    assert best_fit([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]
    assert best_fit([], 10) == []


@pytest.mark.parametrize("spread", [0.4, 1.0])
def test_best_fit_leaves_less_room_empty_than_the_order_does(spread, monkeypatch):
    monkeypatch.setattr(packing, "WINDOW", 50)
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(3, spread, 400)).astype(int) + 2
    docs = [Document(np.zeros(n, dtype=np.int32), 1) for n in lengths[lengths <= 100]]
    filled = {}
    for how in ("in-order", "best-fit"):
        rows = Stream(phase(1.0), [docs], row_tokens=100, seed=0, packing=how)
        for _ in range(100):
            next(rows)
        filled[how] = rows.filled
    assert filled["best-fit"] > filled["in-order"] + 0.03


@given(documents(min_size=2).map(Rated), SEEDS)
def test_easy_to_hard_reads_each_pass_from_the_highest_rate_to_the_lowest(pool, seed):
    """And what is equally easy in the order that it would have had."""
    numbered = Rated([Document(np.array([n, 0]), 1) for n in range(len(pool))])
    numbered.pass_rates = pool.pass_rates

    def first_passes(order):
        stream = Stream(phase(1.0, order=order), [numbered], row_tokens=2, seed=seed)
        read = [int(row[0].ids[0]) for row in islice(stream, 3 * len(pool))]
        return [read[i : i + len(pool)] for i in range(0, len(read), len(pool))]

    for easy, shuffled in zip(first_passes("easy-to-hard"), first_passes("shuffled"), strict=True):
        assert easy == sorted(shuffled, key=lambda n: -pool.pass_rates[n])


def test_a_stream_of_documents_of_other_rates_is_not_entered():
    easy = phase(1.0, order="easy-to-hard")
    rows = Stream(easy, [Rated(some_documents(9))], row_tokens=40, seed=0)
    next(rows)
    with pytest.raises(ValueError, match="are not those that it had"):
        Stream(easy, [Rated(some_documents(9), seed=1)], row_tokens=40, seed=0).enter(rows.state())


def test_a_stream_of_other_documents_is_not_entered():
    rows = Stream(phase(1.0), [some_documents(9)], row_tokens=40, seed=0)
    next(rows)
    for other in (some_documents(8), some_documents(9, seed=1)):
        with pytest.raises(ValueError, match="are not those that it had"):
            Stream(phase(1.0), [other], row_tokens=40, seed=0).enter(rows.state())


def test_the_order_is_the_seeds_and_the_phases_own():
    docs = some_documents(40)

    def order(seed, name):
        rows = Stream(phase(1.0, name=name), [docs], row_tokens=40, seed=seed)
        return [as_key(d) for row in islice(rows, 10) for d in row]

    assert len({tuple(order(s, n)) for s in (0, 1) for n in ("a", "b")}) == 4


def test_the_row_limit_does_not_change_the_order_of_the_documents():
    docs = some_documents(40)
    orders = []
    for row_tokens in (14, 30, 100):
        rows = Stream(phase(1.0, 1.0), [docs[:20], docs[20:]], row_tokens=row_tokens, seed=5)
        orders.append([as_key(d) for row in islice(rows, 60) for d in row][:60])
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.75, 0.2, 0.05), (3.0, 1.0)])
def test_sources_are_mixed_by_weight(weights):
    """Counts lie within 5 standard deviations: a false alarm once in 1.7 million draws."""
    pools = [[Document(np.full(4, i, dtype=np.int32), 1)] * 3 for i in range(len(weights))]
    rows = Stream(phase(*weights), pools, row_tokens=40, seed=0)
    drawn = [int(d.ids[0]) for row in islice(rows, 400) for d in row]
    for i, weight in enumerate(weights):
        share, n = weight / sum(weights), len(drawn)
        assert abs(drawn.count(i) - n * share) < 5 * (n * share * (1 - share)) ** 0.5


TEXTS = [
    Example(chat_prompt(f"What is {a} + {a}?"), f"{a} and {a} make {2 * a}.\n{END_THINK}\n{2 * a}")
    for a in range(30)
]


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train([e.prompt + e.completion for e in TEXTS], vocab_size=300)


def test_a_document_is_prompt_completion_and_end(tokenizer):
    for example, d in zip(TEXTS, tokenise(TEXTS, tokenizer), strict=True):
        assert tokenizer.decode(d.ids[: d.num_prompt].tolist()) == example.prompt
        assert tokenizer.decode(d.ids[d.num_prompt : -1].tolist()) == example.completion
        assert d.ids[-1] == tokenizer.eos_id
        assert d.ids[: d.num_prompt].tolist() == tokenizer.encode(example.prompt)

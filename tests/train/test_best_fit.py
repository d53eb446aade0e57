"""Documents put where they fit best: by the definition, and in an order that no length decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.train.packing import best_fit

CAPACITY = 30
LENGTHS = st.lists(st.integers(1, CAPACITY), max_size=40)


def by_looking_everywhere(lengths, capacity):
    """The definition: the longest first, into the row with the least space that is enough."""
    rows = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        spaces = [(capacity - sum(lengths[i] for i in row), at) for at, row in enumerate(rows)]
        enough = [found for found in spaces if found[0] >= lengths[number]]
        if enough:
            rows[min(enough)[1]].append(number)
        else:
            rows.append([number])
    return rows


@given(LENGTHS)
def test_every_length_is_in_the_row_where_it_fits_best(lengths):
    found = best_fit(lengths, CAPACITY)
    expected = by_looking_everywhere(lengths, CAPACITY)
    assert sorted(found) == sorted(sorted(row) for row in expected)


@given(LENGTHS)
def test_rows_come_in_the_order_of_their_longest(lengths):
    rows = best_fit(lengths, CAPACITY)
    longest = [max(row, key=lambda i: (lengths[i], -i)) for row in rows]
    assert longest == sorted(longest)


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_many_short_documents_do_not_come_before_rows_of_few_long_ones(seed):
    """A row's first number is the smaller the more documents it holds; its longest's is not."""
    rng = np.random.default_rng(seed)
    lengths = np.minimum(np.exp(rng.normal(8.3, 1.0, 4_000)).astype(int) + 2, 20_000).tolist()
    held = [len(row) for row in best_fit(lengths, 20_000)]
    fourth = len(held) // 4
    first, last = np.mean(held[:fourth]), np.mean(held[-fourth:])
    assert 0.7 < first / last < 1.4

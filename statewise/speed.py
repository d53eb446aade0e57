"""What the speed measurement hands on, as records, and how it decides the claim: no weights here.

Four contestants decode the same tokens, in turns. Two of them are the models as their users run
them: "statewise", the attention-free model in its engine, and of the Transformer whichever is the
faster, "transformer", in torch, or "llama.cpp", on the same weights. "statewise in torch" is there
to tell the architecture from the kernels: torch against torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import NamedTuple

from statewise.errors import ConfigError
from statewise.records import read_record, to_json, write_json
from statewise.verdict import Word

OURS, OURS_IN_TORCH = "statewise", "statewise in torch"
IN_TORCH, IN_LLAMA_CPP = "transformer", "llama.cpp"
OPPONENTS = (IN_TORCH, IN_LLAMA_CPP)
LEVEL = 0.95  # of an interval


@dataclass(frozen=True, slots=True)
class Speed:
    """One contestant at one length.

    Attributes:
        batch: sequences decoded at once.
        step_s: seconds of one decoding step of the batch, in each repeat.
        memory_bytes: of one sequence: the state, the same at every length; or the keys and values
            of a sequence of this length.
        floor_bytes: what one step of the batch must move if each step writes what it makes: the
            weights once, and the states in and out; or the keys and values in, and one token's out.
        parity: largest difference between decoded and full-forward logits.
    """

    batch: int
    step_s: tuple[float, ...]
    memory_bytes: int
    floor_bytes: int
    parity: float

    @property
    def tokens_per_s(self) -> float:
        """Decoded tokens a second over the whole batch: of the median repeat."""
        return self.batch / statistics.median(self.step_s)


@dataclass(frozen=True, slots=True)
class BenchRow:
    """All contestants at one length of the sequences, by name."""

    length: int
    contestants: dict[str, Speed]

    @property
    def ours(self) -> Speed:
        """The attention-free model as its engine runs it."""
        return self.contestants[OURS]

    @property
    def opponent(self) -> str:
        """The faster of the Transformer's implementations, at this length."""
        there = [name for name in OPPONENTS if name in self.contestants]
        return max(there, key=lambda name: self.contestants[name].tokens_per_s)

    @property
    def theirs(self) -> Speed:
        """The Transformer, in that implementation."""
        return self.contestants[self.opponent]

    @property
    def ratio(self) -> Ratio:
        """Tokens a second, ours over theirs."""
        return Ratio.of(self.ours, self.theirs)

    @property
    def floor_ratio(self) -> float:
        """The same if both moved their bytes at one bandwidth and did nothing else."""
        each = [one.floor_bytes / one.batch for one in (self.ours, self.theirs)]
        return each[1] / each[0]


class Ratio(NamedTuple):
    """How many times as many tokens a second.

    `interval` covers the median of the repeats' ratios at 95 %; None where there are too few
    repeats (fewer than six).
    """

    median: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, ours: Speed, theirs: Speed) -> Ratio:
        """Repeat by repeat: both were measured in turns, so what slows the machine slows both.

        The interval lies between order statistics, as in the sign test, and supposes nothing of
        how times are distributed (Le Boudec 2010, Performance Evaluation of Computer and
        Communication Systems, theorem 2.1).
        """
        ratios = sorted(
            ours.batch / own / (theirs.batch / other)
            for own, other in zip(ours.step_s, theirs.step_s, strict=True)
        )
        n, outside, left_out = len(ratios), 0.0, -1
        while (outside := outside + 2 * comb(n, left_out + 1) / 2**n) <= 1 - LEVEL:
            left_out += 1
        middle = statistics.median(ratios)
        if left_out < 0:
            return cls(middle, None)
        return cls(middle, (ratios[left_out], ratios[n - 1 - left_out]))


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured.

    Attributes:
        threads: that each contestant may use.
        dtype: of the weights, and of keys and values; states are float32.
        copy_bytes_per_s: memory bandwidth measured on this machine, bytes read plus written.
        llama_cpp: version of llama-cpp-python; "" where llama.cpp was not measured.
        not_measured: why it was not; "" where it was.
        rows: all contestants with the same number of sequences, from short to long.
        budget_bytes: memory for running sequences.
        most_sequences: that run at once, even if more fit.
        under_budget: each contestant with as many sequences as fit into it, from short to long.
    """

    threads: int
    dtype: str
    copy_bytes_per_s: float
    llama_cpp: str
    not_measured: str
    rows: tuple[BenchRow, ...]
    budget_bytes: int
    most_sequences: int
    under_budget: tuple[BenchRow, ...]

    def floor_share(self, speed: Speed) -> float:
        """The share of the byte floor that is reached.

        It can exceed 1: weights and memories that stay in the caches come faster than main memory
        gives them, and the engine writes its states at every eighth step only.
        """
        floor_s = speed.floor_bytes / self.copy_bytes_per_s
        return floor_s / statistics.median(speed.step_s)


def floor_break_even(row: BenchRow) -> float:
    """The length from which on the attention-free model has fewer bytes to move, by formula.

    At the batch of this row: keys and values are as many bytes for every token, all else is
    constant. 0 or less: it has at every length.
    """
    growing = row.theirs.batch * row.theirs.memory_bytes
    constant = row.theirs.floor_bytes - growing
    return (row.ours.floor_bytes - constant) / (growing / row.length)


def memory_break_even(row: BenchRow) -> float:
    """The length from which on keys and values are larger than the state, by formula."""
    return row.ours.memory_bytes / (row.theirs.memory_bytes / row.length)


def measured_break_even(rows: Sequence[BenchRow]) -> float | None:
    """The length from which on the attention-free model decodes faster than any opponent.

    Between two lengths measured the time of a token is taken to grow evenly. None where they do not
    meet: the model is ahead at every length in `rows`, or not ahead at the longest.

    Args:
        rows: from short to long.
    """
    # Seconds that a token of the Transformer takes beyond ours, by the same ratio as the verdict's.
    gaps = [(r.ratio.median - 1) / r.ours.tokens_per_s for r in rows]
    behind = [i for i, gap in enumerate(gaps) if gap <= 0]
    if not behind or behind[-1] == len(rows) - 1:
        return None
    before, after = behind[-1], behind[-1] + 1
    share = -gaps[before] / (gaps[after] - gaps[before])
    return rows[before].length + share * (rows[after].length - rows[before].length)


class Decision(NamedTuple):
    """The verdict on the efficiency claim. `scope`: what it is limited to, "" if nothing."""

    word: Word
    scope: str
    reason: str


def decide(bench: Bench) -> Decision:
    """Decide the efficiency claim on the fastest opponent at the longest length.

    Three things are asked: whether the attention-free model decodes more tokens a second with as
    many sequences as the Transformer, whether it does under the same budget of memory, and whether
    a sequence takes less memory. All three: held. None: reversed. Some: mixed. Where an interval of
    a ratio includes 1: undecided. Where the repeats are too few for one: too weak to say. Without
    llama.cpp the fastest opponent that people have was not asked: what would be held is indicated.

    Raises:
        ConfigError: nothing was measured.
    """
    if not bench.rows or not bench.under_budget:
        raise ConfigError("bench: nothing was measured, so nothing can be decided")
    alike, budget = bench.rows[-1], bench.under_budget[-1]
    intervals = [row.ratio.interval for row in (alike, budget)]
    smaller = alike.ours.memory_bytes < alike.theirs.memory_bytes
    word = _word(intervals, smaller)
    return Decision(
        word=Word.INDICATED if word is Word.HELD and not bench.llama_cpp else word,
        scope="" if bench.llama_cpp else "against torch only",
        reason=_reason(bench),
    )


def _word(intervals: Sequence[tuple[float, float] | None], smaller: bool) -> Word:
    ahead = {smaller}
    for interval in intervals:
        if interval is None:
            return Word.TOO_WEAK
        if interval[0] <= 1 <= interval[1]:
            return Word.UNDECIDED
        ahead.add(interval[0] > 1)
    return Word.MIXED if len(ahead) == 2 else Word.HELD if smaller else Word.REVERSED


def _reason(bench: Bench) -> str:
    """The figures in words, also those that speak against the claim."""
    last, budget = bench.rows[-1], bench.under_budget[-1]
    measured = {IN_TORCH: "in torch", IN_LLAMA_CPP: "in llama.cpp"}
    theirs = " and ".join(
        f"{last.contestants[name].tokens_per_s:,.0f} {where}"
        for name, where in measured.items()
        if name in last.contestants
    )
    sentences = [
        f"At {last.length:,} tokens, in a batch of {last.ours.batch}, the attention-free model "
        f"decodes {last.ours.tokens_per_s:,.0f} tokens/s and the Transformer {theirs}: "
        f"{_times(last.ratio)} as many"
        + (f" as the faster, {measured[last.opponent]}." if bench.llama_cpp else "."),
        f"A sequence takes {last.ours.memory_bytes:,} bytes of state against "
        f"{last.theirs.memory_bytes:,} of keys and values; {bench.budget_bytes:,} bytes hold "
        f"{budget.ours.batch} sequences against {budget.theirs.batch} (at most "
        f"{bench.most_sequences} are run), and with so many the ratio is {_times(budget.ratio)}.",
        f"If both did nothing but move their bytes, {last.ours.batch} sequences each, it would be "
        f"{last.floor_ratio:.2f}.",
        break_even_told(bench),
    ]
    if OURS_IN_TORCH in last.contestants:
        plain = Ratio.of(last.contestants[OURS_IN_TORCH], last.contestants[IN_TORCH])
        sentences.append(f"Torch against torch, without kernels of ours, it is {_times(plain)}.")
    if not bench.llama_cpp:
        sentences.append(f"llama.cpp was not measured: {bench.not_measured}.")
    return " ".join(sentences)


def break_even_told(bench: Bench) -> str:
    """From which length on the attention-free model is ahead: as measured, and by bytes."""
    each = f"{bench.rows[0].ours.batch} sequences each"
    by_bytes = floor_break_even(bench.rows[-1])
    return (
        f"With {each}, it is {_ahead(bench.rows)}. With as many as fit, it is "
        f"{_ahead(bench.under_budget)}. By bytes alone, with {each}, it would be ahead "
        + ("at every length." if by_bytes < 1 else f"from about {by_bytes:,.0f} tokens on.")
    )


def _ahead(rows: Sequence[BenchRow]) -> str:
    """Where our model is ahead."""
    meet = measured_break_even(rows)
    if meet is None and rows[-1].ratio.median <= 1:
        return f"not ahead at the longest length measured, {rows[-1].length:,} tokens"
    where = (
        f"ahead at every length measured, from {rows[0].length:,} tokens on"
        if meet is None
        else f"ahead from about {meet:,.0f} tokens on and behind below"
    )
    open_at = [
        f"{row.length:,}"
        for row in rows
        if row.ratio.interval is not None and row.ratio.interval[0] <= 1 <= row.ratio.interval[1]
    ]
    return where + (f" (undecided at {', '.join(open_at)})" if open_at else "")


def _times(ratio: Ratio) -> str:
    if ratio.interval is None:
        return f"{ratio.median:.2f} times (too few repeats for an interval)"
    low, high = ratio.interval
    return f"{ratio.median:.2f} times (95 % interval {low:.2f} to {high:.2f})"


def write(path: Path, bench: Bench) -> None:
    """Write what was measured."""
    write_json(path, to_json(bench))


def read(path: Path) -> Bench:
    """What `write` wrote. Raises `DataError` naming file and field, if the file is another."""
    return read_record(path, Bench)

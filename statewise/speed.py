"""What the speed measurement hands on, as records, and how it decides the claim: no weights here.

On disk a row is flat: `statewise_tokens_per_s`, `transformer_tokens_per_s` and so on, with the
memory of a sequence under the name of what it is: `statewise_state_bytes`, `transformer_kv_bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from statewise.errors import ConfigError, DataError
from statewise.records import from_json, read_json, to_json, write_json

CONTESTANTS = {"statewise": "state_bytes", "transformer": "kv_bytes"}  # what their memory is called


@dataclass(frozen=True, slots=True)
class Speed:
    """One model at one length.

    Attributes:
        tokens_per_s: decoded tokens a second over the whole batch, at this length.
        memory_bytes: of one sequence: the state, the same at every length; or the keys and values
            of a sequence of this length.
        step_s: median seconds of one decoding step of the batch.
        prefill_tokens_per_s: one prompt of about this length, read alone.
        generate_s: estimated seconds to generate the batch up to this length from nothing: the
            integral of the step time over the lengths measured (trapezia; before the first length
            its step time is taken).
        floor_s: seconds to move what one step must move at `BenchRow.copy_bytes_per_s`: the weights
            once, and the states in and out; or the keys and values in, and one token's out.
        floor_share: `floor_s / step_s`, the share of the physical limit that is reached. A model
            that fits in the caches could even exceed 1.
        parity: largest difference between decoded and full-forward logits.
    """

    tokens_per_s: float
    memory_bytes: int
    step_s: float
    prefill_tokens_per_s: float
    generate_s: float
    floor_s: float
    floor_share: float
    parity: float


@dataclass(frozen=True, slots=True)
class BenchRow:
    """Both models at one length.

    Attributes:
        length: tokens in each sequence.
        batch: sequences decoded at once.
        copy_bytes_per_s: memory bandwidth measured on this machine, bytes read plus written.
        statewise: the attention-free model.
        transformer: the model beside it.
    """

    length: int
    batch: int
    copy_bytes_per_s: float
    statewise: Speed
    transformer: Speed

    def as_json(self) -> dict[str, Any]:
        """The row as it lies on disk."""
        row: dict[str, Any] = {
            "length": self.length,
            "batch": self.batch,
            "copy_bytes_per_s": self.copy_bytes_per_s,
        }
        for name in CONTESTANTS:
            speed = getattr(self, name)
            row |= {_key(name, f.name): getattr(speed, f.name) for f in fields(Speed)}
        return row

    @classmethod
    def from_json(cls, row: Any, where: str) -> BenchRow:
        """The row from what lies on disk.

        Raises:
            DataError: a field is missing, unknown or of the wrong type; `where` opens the message.
        """
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
        rest, nested = dict(row), {}
        for name in CONTESTANTS:
            keys = {_key(name, f.name): f.name for f in fields(Speed)}
            for key in keys:
                if key not in rest:
                    raise DataError(f"{where}: a row needs the field {key!r}")
            nested[name] = {keys[key]: rest.pop(key) for key in keys}
        return from_json(cls, {**rest, **nested}, where)


def _key(name: str, field: str) -> str:
    return f"{name}_{CONTESTANTS[name] if field == 'memory_bytes' else field}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Whether the efficiency claim held on this machine, and the figures that decided it.

    Attributes:
        held: at the longest length the attention-free model decodes more tokens a second *and*
            needs less memory a sequence.
        reason: the figures in words, also those that speak against the claim.
        memory_crossover_tokens: the shortest sequence whose keys and values outgrow the state, by
            formula.
        speed_crossover_tokens: the first measured length from which on, at all longer measured
            lengths too, the attention-free model decodes faster; None if there is none.
    """

    held: bool
    reason: str
    memory_crossover_tokens: int
    speed_crossover_tokens: int | None


def decide(rows: Sequence[BenchRow]) -> Claim:
    """Whether the efficiency claim held, by the longest length in `rows`, whatever came out.

    Raises:
        ConfigError: there are no rows.
    """
    if not rows:
        raise ConfigError("bench: nothing was measured, so nothing can be decided")
    ordered = sorted(rows, key=lambda r: r.length)
    last = ordered[-1]
    ours, theirs = last.statewise, last.transformer
    faster = ours.tokens_per_s > theirs.tokens_per_s
    smaller = ours.memory_bytes < theirs.memory_bytes
    speed_crossover = None
    for row in reversed(ordered):
        if row.statewise.tokens_per_s <= row.transformer.tokens_per_s:
            break
        speed_crossover = row.length
    # Keys and values are the same number of bytes for every token, and nothing at length 0.
    each = theirs.memory_bytes // last.length
    reason = (
        f"At {last.length} tokens, in a batch of {last.batch}, the attention-free model decodes "
        f"{ours.tokens_per_s:,.0f} tokens/s and the Transformer {theirs.tokens_per_s:,.0f} "
        f"({ours.tokens_per_s / theirs.tokens_per_s:.2f} times as many); a "
        f"sequence takes {ours.memory_bytes:,} bytes of state against "
        f"{theirs.memory_bytes:,} bytes of keys and values. Generating a batch of that "
        f"length is estimated at {ours.generate_s:,.1f} s against "
        f"{theirs.generate_s:,.1f} s. The former runs as the engine does (on a CPU in "
        "compiled kernels), the latter in torch. "
    )
    reason += {
        (True, True): "Faster and smaller: held.",
        (True, False): "Faster, but not smaller: not held.",
        (False, True): "Smaller, but not faster: not held.",
        (False, False): "Neither faster nor smaller: not held.",
    }[faster, smaller]
    return Claim(
        held=faster and smaller,
        reason=reason,
        memory_crossover_tokens=ours.memory_bytes // each + 1,
        speed_crossover_tokens=speed_crossover,
    )


def write(path: Path, rows: Sequence[BenchRow], claim: Claim) -> None:
    """Write what was measured and what it decides."""
    write_json(path, {"rows": [row.as_json() for row in rows], "claim": to_json(claim)})


def read(path: Path) -> tuple[tuple[BenchRow, ...], Claim]:
    """What `write` wrote. Raises `DataError` naming file and field, if the file is another."""
    document = read_json(path)
    if document.keys() != {"rows", "claim"} or not isinstance(document["rows"], list):
        raise DataError(f"{path}: expected rows and claim, found {sorted(document)}")
    rows = (BenchRow.from_json(row, f"{path}: rows[{i}]") for i, row in enumerate(document["rows"]))
    return tuple(rows), from_json(Claim, document["claim"], f"{path}: claim")

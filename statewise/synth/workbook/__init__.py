"""The built-in procedural author, judge, test writer, verifier and teacher."""

from statewise.synth.workbook.book import (
    CONCEPTS,
    CORE_CONCEPTS,
    Partition,
    Workbook,
    canonical_key,
    contents,
    partition_of,
)
from statewise.synth.workbook.reserved import reserved_pair, reserved_pairs

__all__ = [
    "CONCEPTS",
    "CORE_CONCEPTS",
    "Partition",
    "Workbook",
    "canonical_key",
    "contents",
    "partition_of",
    "reserved_pair",
    "reserved_pairs",
]

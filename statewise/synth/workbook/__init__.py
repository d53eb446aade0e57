"""The built-in procedural author, judge, test writer, verifier and teacher."""

from statewise.synth.workbook.book import (
    CONCEPTS,
    CORE_CONCEPTS,
    Partition,
    Workbook,
    canonical_key,
    partition_of,
)

__all__ = [
    "CONCEPTS",
    "CORE_CONCEPTS",
    "Partition",
    "Workbook",
    "canonical_key",
    "partition_of",
]

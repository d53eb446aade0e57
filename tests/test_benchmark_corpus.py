"""The measurements of sources and rows: what they count, at a size that takes no time."""

from __future__ import annotations

import json

from benchmarks import corpus, packing


def test_a_source_is_compared_tokenised_and_read_once(tmp_path):
    file = tmp_path / "source.jsonl"
    corpus.write(file, 700)
    figures = corpus.measure(file, tmp_path / "source", "best-fit")
    assert figures["documents"] == 700
    assert figures["copies"] == 1
    assert figures["read"] >= 699
    for part in ("before", "tokenise_peak", "read_peak"):
        assert figures[f"{part}_bytes"] > 50 * corpus.MIB


def test_the_same_number_of_documents_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        corpus.write(tmp_path / name, 20)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_both_packings_are_told_for_every_kind_of_lengths(capsys):
    packing.main(["--rows", "300"])
    told = capsys.readouterr().out.splitlines()
    results = json.loads(told[-1])
    assert len(results) == len(packing.TRACES) * 3 == len(told) - 3
    for row in results:
        assert 0.5 < row["filled"]["in-order"] < row["filled"]["best-fit"] <= 1

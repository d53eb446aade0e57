"""A run whose problems compose what goes together in seed problems."""

import json

import pytest
from small_run import command, refused, write_recipe

from statewise.records import Problem, read_jsonl
from statewise.synth.workbook import CORE_CONCEPTS

NAMES = [c.name for c in CORE_CONCEPTS if c.kind == "math"][:6]
PAIRS = [[NAMES[i], NAMES[i + 1]] for i in (0, 2, 4)]


def seeded(tmp_path, lists, *more):
    """The command that synthesises from seed problems, and its folder."""
    text = "".join(json.dumps({"concepts": names}) + "\n" for names in lists)
    (tmp_path / "seeds.jsonl").write_text(text)
    recipe, folder = write_recipe(tmp_path), tmp_path / "run"
    settings = [f"data_dir={tmp_path}", 'synth.selection.seeds="seeds.jsonl"', *more]
    argv = ["synth", recipe, "--out", folder]
    return [*argv, *(word for s in settings for word in ("--set", s))], folder


def composed(folder):
    rows = read_jsonl(folder / "synth/sets/composed/problems.jsonl", Problem)
    return [frozenset(p.concepts) for p in rows]


SMALL = ["synth.selection.temperature=0.02", "synth.sets.1.levels=['AMC10', 'AIME']"]
SMALL += ["synth.sets.1.count=6", "synth.sets.0.count=6", "synth.held_out=[]"]
SMALL += ["synth.development=[]", "claims.seeds=[]"]


def test_what_goes_together_in_seed_problems_is_composed_and_nothing_else(tmp_path):
    argv, folder = seeded(tmp_path, PAIRS, *SMALL)
    code, out, err = command(*argv)
    assert code == 0, err
    assert "concepts: 6 of seeds.jsonl" in out
    found = composed(folder)
    assert found
    assert set(found) <= set(map(frozenset, PAIRS))
    levels = {p.level for p in read_jsonl(folder / "synth/sets/composed/problems.jsonl", Problem)}
    assert levels <= {"AMC10", "AIME"}


def test_other_seed_problems_redo_the_synthesis_and_the_same_do_not(tmp_path):
    argv, folder = seeded(tmp_path, PAIRS, *SMALL)
    assert command(*argv)[0] == 0
    assert "inputs unchanged" in command(*argv)[1]
    others = [[NAMES[0], NAMES[3]], [NAMES[1], NAMES[4]], [NAMES[2], NAMES[5]]]
    argv, _ = seeded(tmp_path, others, *SMALL)
    assert command(*argv)[0] == 0
    assert set(composed(folder)) <= set(map(frozenset, others))


@pytest.mark.parametrize(
    ("lists", "more", "told"),
    [
        (PAIRS, ['synth.selection.embeddings="e.jsonl"'], "e.jsonl: no such file; synth.selection"),
        ([*PAIRS, ["topology"]], SMALL, "does not know 1 of 7 concepts, 'topology' among them"),
        (PAIRS, ["synth.selection.temperature=0"], "temperature: must be above 0"),
        (PAIRS[:1], [*SMALL[:1], *SMALL[3:]], "no further set of 1 of 2 concepts"),
    ],
)
def test_what_cannot_be_selected_from_is_told(tmp_path, lists, more, told):
    argv, _ = seeded(tmp_path, lists, *more)
    assert told in refused(*argv)

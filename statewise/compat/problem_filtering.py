"""`problem_filtering.py`: from judged drafts, the training pairs of the next generator.

Flags and fields are the published ones. A verdict is read from its own line and nowhere else, so
"imperfect" is not perfect; and drafts of several judges' files belong together by what they say,
not by their line, so that a lost line moves nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from statewise.compat.flags import true_or_false
from statewise.errors import DataError, RunError, StatewiseError
from statewise.records import Rating, iter_rows, json_bytes, write_atomically
from statewise.synth.formats import VERDICT_HEADING, parse_rating

NAME = "problem_filtering.py"
Draft = tuple[str, str]  # prompt, rationale and problem


def read_ratings(path: Path) -> dict[Draft, list[Rating]]:
    """What a judge said of each draft; of a draft that occurs several times, one rating each.

    Raises:
        DataError: a row lacks a field.
    """
    found: dict[Draft, list[Rating]] = {}
    for where, row in iter_rows(path):
        for field in ("prompt", "rationale_and_problem", "judgement"):
            if not isinstance(row.get(field), str):
                raise DataError(f"{where}: field {field!r} must be text")
        draft = (row["prompt"], row["rationale_and_problem"])
        found.setdefault(draft, []).append(parse_rating(f"{VERDICT_HEADING} {row['judgement']}"))
    if not found:
        raise DataError(f"{path}: has no rows")
    return found


def kept(ratings: Sequence[Rating], *, only_perfect: bool) -> bool:
    """Whether a draft goes on: all judges call it perfect; or at least one, and none calls it bad.

    A judgement that cannot be read is no praise: it counts as bad.
    """
    if only_perfect:
        return all(r is Rating.PERFECT for r in ratings)
    bad = (Rating.BAD, Rating.UNREADABLE)
    return Rating.PERFECT in ratings and not any(r in bad for r in ratings)


def parser() -> argparse.ArgumentParser:
    """The published flags."""
    p = argparse.ArgumentParser(prog=NAME, description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--template", required=True, help="path of the judges' files, with {}")
    p.add_argument("--output_path", type=Path, required=True, help="JSONL; never overwritten")
    p.add_argument("--only_perfect", type=true_or_false, default=True)
    p.add_argument("--n_rewards", type=int, default=2, help="judges")
    return p


def run(a: argparse.Namespace) -> int:
    """Filter and write; returns how many drafts were kept."""
    if a.output_path.exists():
        raise RunError(f"{a.output_path}: exists; nothing is overwritten")
    if "{}" not in a.template and a.n_rewards > 1:
        raise DataError(f"--template: {a.template!r} has no {{}} for the judge's number")
    if a.n_rewards < 1:
        raise DataError(f"--n_rewards: must be at least 1, found {a.n_rewards}")
    paths = [Path(a.template.format(i)) for i in range(a.n_rewards)]
    judges = [read_ratings(path) for path in paths]
    for path, ratings in zip(paths[1:], judges[1:], strict=True):
        differ = set(ratings) ^ set(judges[0])
        uneven = [d for d in judges[0] if len(ratings.get(d, ())) != len(judges[0][d])]
        if differ or uneven:
            raise DataError(
                f"{path}: {len(differ) or len(uneven)} drafts are not judged as often as in "
                f"{paths[0]}, the first of them for the prompt "
                f"{min(differ or uneven)[0][:60]!r}; both judges must have seen the same drafts"
            )
    rows = []
    counted: Counter[str] = Counter()
    for draft in judges[0]:
        for given in zip(*(ratings[draft] for ratings in judges), strict=True):
            counted.update(r.value for r in given)
            if kept(given, only_perfect=a.only_perfect):
                rows.append({"prompt": draft[0], "completion": draft[1]})
                break  # once is enough to learn from
    write_atomically(a.output_path, b"".join(json_bytes(row) for row in rows))
    told = ", ".join(f"{n} {word}" for word, n in sorted(counted.items()))
    print(f"{a.output_path}: {len(rows)} of {len(judges[0])} drafts kept; judgements: {told}")
    return len(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    try:
        run(parser().parse_args(argv))
    except (StatewiseError, OSError) as e:
        print(f"{NAME}: error: {e}", file=sys.stderr)
        return 1
    return 0

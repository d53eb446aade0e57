"""The synthesis line: concepts -> drafts -> judgements -> problems -> examples.

Each step asks a role and keeps its raw answers in a file of its own; everything else is computed
from those files. A line that was killed starts again where its answers end.

    author.jsonl    rationale and problem for a sampled set of concepts at a level
    judge-1.jsonl   ... one file a judge; only drafts that all call perfect go on
    verifier.jsonl  the answer by another method (math), or test cases (code)
    teacher.jsonl   worked solutions; kept where they agree with the verifier or pass the tests
    problems.jsonl, examples.jsonl, funnel.json   what came of it
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from statewise.errors import ConfigError, DataError
from statewise.eval.answers import undecided
from statewise.eval.grading import grade_completion
from statewise.progress import task
from statewise.records import (
    Completion,
    Concept,
    Draft,
    Example,
    Judgement,
    Outcome,
    Problem,
    Rating,
    write_json,
    write_jsonl,
)
from statewise.sampler import Prompt, Sampler, SamplingParams
from statewise.synth import formats
from statewise.synth.ask import ask
from statewise.synth.concepts import levels_for
from statewise.synth.config import ProblemSet, Role, SynthConfig
from statewise.synth.dedup import decontaminate, duplicates
from statewise.synth.selection import Selector
from statewise.synth.workbook.reserved import reserved_pairs
from statewise.text import chat_prompt, last_boxed, split_thinking

ASKED_SURPLUS = 1.25  # drafts asked for per evaluation problem wanted
CONCEPT_DRAWS = 1_000  # before no concept set is thought to fit
GRADERS = 2  # threads; each waits for a sandbox


@dataclass(frozen=True, slots=True)
class Roles:
    """Who plays the roles."""

    author: Sampler
    judges: tuple[Sampler, ...]
    verifier: Sampler
    teacher: Sampler


@dataclass(frozen=True, slots=True)
class Funnel:
    """How many problems of one set were left after each step, and what the judges thought.

    Attributes:
        name: the set.
        kind: "math" or "code".
        steps: (what the number counts, number), in order.
        ratings: judge -> rating -> count.
        agreement: share of drafts on which all judges gave the same rating.
        nearest: evaluation set -> largest rarity-weighted 8-gram containment left.
        ungraded: why no solution could be called right or wrong -> problems left out for it. These
            are no mistakes of the teacher: the grader could not read an answer, converts no units,
            and knows no tolerance.
    """

    name: str
    kind: str
    steps: tuple[tuple[str, int], ...]
    ratings: dict[str, dict[str, int]]
    agreement: float | None
    nearest: dict[str, float]
    ungraded: dict[str, int]


def choose_concepts(
    config: SynthConfig, known: Sequence[Concept], core: Sequence[Concept]
) -> list[Concept]:
    """The concepts a recipe names; "core" and "all" stand for the workbook's lists.

    Raises:
        ConfigError: a name is unknown.
    """
    chosen: dict[tuple[str, str], Concept] = {}
    for i, name in enumerate(config.concepts):
        found = {"core": core, "all": known}.get(name, [c for c in known if c.name == name])
        if not found and config.author.source == "workbook":
            raise ConfigError(
                f"synth.concepts.{i}: unknown concept {name!r}; known are core, all, "
                + ", ".join(sorted(c.name for c in known))
            )
        # What the workbook does not know is anybody's: a model writes either kind of problem.
        new = [Concept(name, "", "math"), Concept(name, "", "code")]
        chosen |= {(c.name, c.kind): c for c in found or new}
    return list(chosen.values())


def check_selected(names: Sequence[str], config: SynthConfig, known: Sequence[Concept]) -> None:
    """Raise `ConfigError` if the author does not know the concepts of the seed problems."""
    strange = sorted(set(names) - {c.name for c in known})
    if strange and config.author.source == "workbook":
        raise ConfigError(
            f"synth.selection.seeds: the workbook does not know {len(strange)} of {len(names)} "
            f"concepts, {strange[0]!r} among them; synth.author must be a model"
        )


def sample_concepts(
    wanted: ProblemSet,
    concepts: Sequence[Concept],
    count: int,
    seed: int,
    *,
    apart: bool = False,
    selector: Selector | None = None,
) -> list[tuple[tuple[str, ...], str]]:
    """Concept sets with a level: sizes drawn evenly, concepts without repetition, all seeded.

    Args:
        wanted: the set; of novelty "pairs", each of its concept sets holds a reserved pair.
        concepts: what to draw from.
        count: how many.
        seed: names them.
        apart: no other set holds a reserved pair.
        selector: draws by what goes together, from its own concepts, without repeating a set.

    Raises:
        ConfigError: there are fewer concepts of this kind than a problem is to compose, or none
            that may be composed.
        DataError: the selector finds no further set.
    """
    if selector is not None:
        return _selected(wanted, selector, count, seed, apart)
    pool = [c.name for c in concepts if c.kind == wanted.kind]
    if len(pool) < max(wanted.sizes):
        raise ConfigError(
            f"synth: set {wanted.name!r} composes {max(wanted.sizes)} {wanted.kind} concepts, but "
            f"synth.concepts holds {len(pool)}"
        )
    rng = Random(f"concepts/{seed}/{wanted.name}")
    drawn = []
    for i in range(count):
        size = wanted.sizes[i % len(wanted.sizes)]
        names = _draw_names(rng, pool, size, wanted, apart)
        drawn.append((names, rng.choice(wanted.levels or levels_for(size))))
    return drawn


def _selected(
    wanted: ProblemSet, selector: Selector, count: int, seed: int, apart: bool
) -> list[tuple[tuple[str, ...], str]]:
    """As `sample_concepts`, by a selector."""
    new = wanted.novelty == "pairs"
    streams = {}
    for size in set(wanted.sizes):
        name = Random(f"selection/{seed}/{wanted.name}/{size}").getrandbits(63)
        sets = selector.sets(size, wanted.levels or levels_for(size), seed=name)
        if new or apart:
            sets = (s for s in sets if bool(reserved_pairs(s[0])) == new)
        streams[size] = sets
    return [next(streams[wanted.sizes[i % len(wanted.sizes)]]) for i in range(count)]


def _draw_names(
    rng: Random, pool: Sequence[str], size: int, wanted: ProblemSet, apart: bool
) -> tuple[str, ...]:
    """One concept set, with a reserved pair where the set is about those, and none elsewhere."""
    new = wanted.novelty == "pairs"
    for _ in range(CONCEPT_DRAWS):
        names = tuple(rng.sample(pool, size))
        if not (new or apart) or bool(reserved_pairs(names)) == new:
            return names
    raise ConfigError(
        f"synth: set {wanted.name!r} composes {size} of {len(pool)} {wanted.kind} concepts, of "
        f"which {len(reserved_pairs(pool))} pairs are kept out of training; widen synth.concepts"
    )


def write_set(
    wanted: ProblemSet,
    concepts: Sequence[Concept],
    roles: Roles,
    config: SynthConfig,
    folder: Path,
    *,
    seed: int,
    tests: Mapping[str, Sequence[str]],
    asked: bool = False,
    selector: Selector | None = None,
) -> list[Problem]:
    """Write one set of problems and, from their solutions, training examples.

    Args:
        wanted: the set.
        concepts: what to draw from.
        roles: who plays the roles.
        config: thresholds and sampling of the roles.
        folder: where the set's files go.
        seed: names the concept sets and the roles' sampling.
        tests: evaluation set -> statements that no problem may give away.
        asked: the set is for evaluation: more drafts are asked for, and the first
            `wanted.count` problems are kept.
        selector: draws the concept sets, where they are not drawn evenly.

    Returns:
        The problems; they and their examples are on disk.
    """
    num_drafts = int(wanted.count * ASKED_SURPLUS) + 10 if asked else wanted.count
    apart = config.keeps_pairs_apart
    requests = sample_concepts(wanted, concepts, num_drafts, seed, apart=apart, selector=selector)
    drafts = _draft(wanted, requests, roles, config, folder)
    judgements = _judge(drafts, roles, config, folder)
    perfect = _unanimous(drafts, judgements)
    repeated = duplicates([d.problem for d in perfect], jaccard=config.duplicate_jaccard)
    unique = [d for i, d in enumerate(perfect) if i not in repeated]
    contaminated = decontaminate(
        [d.problem for d in unique], tests, containment=config.contamination
    )
    clean = [d for i, d in enumerate(unique) if i not in contaminated.dropped]
    solved, ungraded = _solve(wanted, clean, roles, config, folder)
    if asked:
        if len(solved) < wanted.count:
            raise DataError(
                f"synth: evaluation set {wanted.name!r} wants {wanted.count} problems, but only "
                f"{len(solved)} of {num_drafts} drafts survived; lower count or "
                "widen synth.concepts"
            )
        solved = solved[: wanted.count]
    problems = [problem for problem, _ in solved]
    funnel = Funnel(
        name=wanted.name,
        kind=wanted.kind,
        steps=(
            ("concept sets drafted", num_drafts),
            ("well formed", len(drafts)),
            ("called perfect by all judges", len(perfect)),
            ("not duplicates", len(unique)),
            ("not near an evaluation problem", len(clean)),
            ("solved and verified", len(problems)),
        ),
        ratings=_ratings(judgements),
        agreement=_agreement(judgements),
        nearest={name: round(share, 3) for name, share in contaminated.highest.items()},
        ungraded=ungraded,
    )
    write_jsonl(folder / "problems.jsonl", problems)
    write_jsonl(folder / "examples.jsonl", [example for _, example in solved])
    write_json(folder / "funnel.json", _as_json(funnel))
    return problems


def _as_json(funnel: Funnel) -> dict[str, Any]:
    return {name: getattr(funnel, name) for name in Funnel.__slots__}


def _params(role: Role, n: int = 1) -> SamplingParams:
    return SamplingParams(n=n, temperature=role.temperature, max_tokens=role.max_tokens)


def _draft(
    wanted: ProblemSet,
    requests: Sequence[tuple[tuple[str, ...], str]],
    roles: Roles,
    config: SynthConfig,
    folder: Path,
) -> list[Draft]:
    prompts = [
        Prompt(f"{wanted.name}-{i:05d}", formats.author_prompt(names, level, wanted.kind))
        for i, (names, level) in enumerate(requests)
    ]
    answers = ask(roles.author, prompts, _params(config.author), folder / "author.jsonl")
    drafts = []
    for prompt, (names, level) in zip(prompts, requests, strict=True):
        parsed = formats.parse_draft(answers[prompt.id][0].text)
        if parsed is not None:
            drafts.append(Draft(prompt.id, wanted.kind, names, level, *parsed))
    return drafts


def _judge(
    drafts: Sequence[Draft], roles: Roles, config: SynthConfig, folder: Path
) -> list[list[Judgement]]:
    prompts = [Prompt(d.id, formats.judge_prompt(d)) for d in drafts]
    by_judge = []
    for i, (judge, role) in enumerate(zip(roles.judges, config.judges, strict=True), start=1):
        name = f"judge-{i}"
        answers = ask(judge, prompts, _params(role), folder / f"{name}.jsonl")
        texts = [answers[d.id][0].text for d in drafts]
        ratings = (formats.parse_rating(text) for text in texts)
        by_judge.append(
            [Judgement(d.id, name, r, t) for d, r, t in zip(drafts, ratings, texts, strict=True)]
        )
    return by_judge


def _unanimous(drafts: Sequence[Draft], by_judge: Sequence[Sequence[Judgement]]) -> list[Draft]:
    return [
        draft
        for draft, ratings in zip(drafts, zip(*by_judge, strict=True), strict=True)
        if all(j.rating is Rating.PERFECT for j in ratings)
    ]


def _ratings(by_judge: Sequence[Sequence[Judgement]]) -> dict[str, dict[str, int]]:
    return {
        f"judge-{i}": {r.value: sum(j.rating is r for j in judgements) for r in Rating}
        for i, judgements in enumerate(by_judge, start=1)
    }


def _agreement(by_judge: Sequence[Sequence[Judgement]]) -> float | None:
    sets = [{j.rating for j in ratings} for ratings in zip(*by_judge, strict=True)]
    return sum(len(s) == 1 for s in sets) / len(sets) if sets else None


def _solve(
    wanted: ProblemSet, drafts: Sequence[Draft], roles: Roles, config: SynthConfig, folder: Path
) -> tuple[list[tuple[Problem, Example]], dict[str, int]]:
    """Problems with their examples; and how many problems nobody could grade, by the reason."""
    problems = _reference(wanted, drafts, roles, config, folder)
    prompts = [Prompt(p.id, chat_prompt(p.statement, p.kind)) for p in problems]
    params = _params(config.teacher, config.teacher_samples)
    answers = ask(roles.teacher, prompts, params, folder / "teacher.jsonl")

    def checked(problem: Problem) -> Completion | str:
        return _first_right(problem, answers[problem.id])

    solved = []
    ungraded: Counter[str] = Counter()
    with ThreadPoolExecutor(GRADERS) as pool, task(f"{wanted.name}/check", len(problems)) as shown:
        # Arithmetic is compared here; only programs wait for the sandbox and gain from threads.
        checks = (pool.map if wanted.kind == "code" else map)(checked, problems)
        for problem, prompt, check in zip(problems, prompts, checks, strict=True):
            shown.advance()
            if isinstance(check, Completion):
                example = Example(prompt.text, check.text, problem.source, problem.concepts)
                solved.append((problem, example))
            elif check:
                ungraded[check] += 1
    return solved, dict(sorted(ungraded.items()))


def _first_right(problem: Problem, solutions: Sequence[Completion]) -> Completion | str:
    """The first right solution; else why one of them cannot be called wrong, "" if all can.

    Raises:
        DataError: a program cannot be run here.
    """
    reason = ""
    for solution in solutions:
        # A program is trained on as it was written, so nothing that a harness adds may carry it.
        verdict = grade_completion(problem, solution, rules="strict")
        if verdict.outcome is Outcome.CORRECT:
            return solution
        if verdict.outcome is Outcome.UNSCORED:
            if problem.kind == "code":
                told = f"its program cannot be run ({verdict.rule})"
                raise DataError(f"synth: problem {problem.id}: {told}")
            reason = reason or verdict.rule
        elif problem.answer is not None and verdict.extracted is not None:
            reason = reason or undecided(problem.answer, verdict.extracted)
    return reason


def _reference(
    wanted: ProblemSet, drafts: Sequence[Draft], roles: Roles, config: SynthConfig, folder: Path
) -> list[Problem]:
    """Problems with what their solutions are held to: a verified answer, or test cases."""
    write: Callable[[str], str] = (
        formats.tests_prompt if wanted.kind == "code" else formats.verifier_prompt
    )
    prompts = [Prompt(d.id, write(d.problem)) for d in drafts]
    answers = ask(roles.verifier, prompts, _params(config.verifier), folder / "verifier.jsonl")
    problems = []
    for d in drafts:
        text = answers[d.id][0].text
        plain = Problem(d.id, d.kind, d.problem, concepts=d.concepts, level=d.level, source="synth")
        if wanted.kind == "code":
            cases = formats.parse_tests(text)
            if cases:
                problems.append(replace(plain, tests=cases))
        else:
            answer = last_boxed(split_thinking(text).visible or text)
            if answer is not None:
                problems.append(replace(plain, answer=answer))
    return problems

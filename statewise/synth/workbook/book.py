"""The workbook as a sampler: it recognises each role's prompt and answers in that role's format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random
from typing import Literal, get_args
from zlib import crc32

from statewise.errors import ConfigError, DataError
from statewise.records import Completion, Concept, FinishReason
from statewise.sampler import Prompt, SamplingParams
from statewise.synth import formats
from statewise.synth.concepts import LEVELS
from statewise.synth.config import Novelty
from statewise.synth.workbook.algebra import ALGEBRA
from statewise.synth.workbook.chance import CHANCE
from statewise.synth.workbook.language import Foreign, IllPosed, Language, Plan, draw_plan
from statewise.synth.workbook.number import NUMBER
from statewise.synth.workbook.programs import MOVES, Program, ProgramLanguage, draw_program
from statewise.synth.workbook.reserved import WORDINGS
from statewise.text import chat_prompt

SKILLS = NUMBER + ALGEBRA + CHANCE
CONCEPTS: tuple[Concept, ...] = tuple(s.concept for s in SKILLS) + tuple(m.concept for m in MOVES)
CORE_CONCEPTS: tuple[Concept, ...] = tuple(s.concept for s in SKILLS if s.core) + tuple(
    m.concept for m in MOVES if m.core
)

Partition = Literal["train", "development", "held_out"]

_SKILLS = {s.name: s for s in SKILLS}
_MOVES = {m.name: m for m in MOVES}
_MATH = Language(SKILLS, WORDINGS)
_CODE = ProgramLanguage(MOVES)
_BUCKETS = 10  # by content
_APART: dict[int, Partition] = {0: "held_out", 1: "development"}
_ATTEMPTS = 1_000
_CHAT = {kind: chat_prompt("\0", kind).split("\0") for kind in ("math", "code")}

_OPENINGS = (
    "The problem grows out of {}.",
    "I want to bring in {}.",
    "The heart of the problem is {}.",
)
_LINKS = (
    "Its result is a small integer, so it can serve as a quantity in a question on {}.",
    "What comes out is a plain number, which {} can take as input.",
    "That result leads on to {}, so the second idea cannot be reached without the first.",
)
_CLOSINGS = (
    "With {} concept(s) in the chain this suits the level {}.",
    "A solver needs {} step(s) of thought, which is what {} asks for.",
)


def canonical_key(statement: str) -> str | None:
    """What a workbook statement asks, independent of its wording.

    Returns:
        Equal texts for two wordings of one problem; None if the workbook did not write it.
    """
    for language in (_MATH, _CODE):
        try:
            return _read(language, statement).key
        except (Foreign, IllPosed):
            continue
    return None


def _read(language: Language | ProgramLanguage, statement: str) -> Plan | Program:
    if isinstance(language, ProgramLanguage):
        return language.read(statement)
    return language.read(statement)[0]


def contents(statement: str) -> tuple[str, ...] | None:
    """Of each step of a workbook problem its concept with its numbers, worked out.

    Returns:
        Such as ("greatest common divisor(56,84)", "rectangle perimeters(12,35)"); None if the
        workbook did not write it, or nothing can be asked so.
    """
    for language in (_MATH, _CODE):
        try:
            return _read(language, statement).contents
        except (Foreign, IllPosed):
            continue
    return None


def partition_of(content: str) -> Partition:
    """The partition that a step belongs to, by its concept and numbers.

    A problem is written only if all its steps are of one partition, so that what is held out is
    not solved on the way of any training problem.
    """
    return _APART.get(crc32(content.encode()) % _BUCKETS, "train")


class Workbook:
    """Author, judge, test writer, verifier and teacher without weights, by a seeded procedure.

    It gets the prompts a language model would get and answers in the same formats. A completion
    depends on the workbook's seed, the prompt (id and text), `params.seed` and the sample index
    alone; of the other parameters only `n` and `max_tokens` (in words) have an effect.

    Args:
        seed: the book's own seed; two judges are two books with different seeds.
        partition: which problems the author writes: of no two partitions do problems share a step.
        novelty: how the author's problems differ from any that training has: in "numbers" beyond
            the trained range or in reserved "wording" (mathematics only); "pairs" of concepts that
            were kept apart are the caller's to ask for.
        author_error: how often a draft is spoilt: a wrong tag, a missing concept, a missing step,
            or a question that cannot be answered.
        judge_error: how often a verdict is misread or left out.
        teacher_error: how often a solution has a slip in its last step.

    Raises:
        ConfigError: partition or novelty is unknown, or a rate is no probability.
    """

    def __init__(
        self,
        *,
        seed: int,
        partition: Partition,
        novelty: Novelty = "none",
        author_error: float = 0.05,
        judge_error: float = 0.02,
        teacher_error: float = 0.03,
    ) -> None:
        for name, value, known in (
            ("partition", partition, get_args(Partition)),
            ("novelty", novelty, get_args(Novelty)),
        ):
            if value not in known:
                raise ConfigError(f"workbook.{name}: one of {known}, found {value!r}")
        rates = {"author": author_error, "judge": judge_error, "teacher": teacher_error}
        for role, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ConfigError(f"workbook.{role}_error: must be in [0, 1], found {rate}")
        self.seed = seed
        self.partition = partition
        self.novelty = novelty
        self.author_error = author_error
        self.judge_error = judge_error
        self.teacher_error = teacher_error

    def sample(self, prompts: Iterable[Prompt], params: SamplingParams) -> Iterator[Completion]:
        """Yield `params.n` answers for every prompt, prompt by prompt.

        Raises:
            DataError: a prompt is none of the known roles', or asks for what the book cannot do.
        """
        for prompt in prompts:
            for i in range(params.n):
                rng = Random(f"{self.seed}/{params.seed}/{i}/{prompt.id}/{prompt.text}")
                text = self._answer(prompt, rng)
                words = text.split(" ")
                cut = len(words) > params.max_tokens
                yield Completion(
                    prompt_id=prompt.id,
                    sample=i,
                    text=" ".join(words[: params.max_tokens]) if cut else text,
                    finish_reason=FinishReason.LENGTH if cut else FinishReason.STOP,
                    prompt_tokens=prompt.text.count(" ") + 1,
                    completion_tokens=min(len(words), params.max_tokens),
                    seed=params.seed,
                )

    def _answer(self, prompt: Prompt, rng: Random) -> str:
        text = prompt.text
        try:
            for kind in ("math", "code"):
                head, tail = _CHAT[kind]
                if text.startswith(head) and text.endswith(tail):
                    return self._teach(text[len(head) : len(text) - len(tail)], kind, rng)
                if text.startswith(formats.AUTHOR_TASK[kind]):
                    return self._write(text, kind, rng)
                if text.startswith(formats.JUDGE_TASK[kind]):
                    return self._judge(text, kind, rng)
            if text.startswith(formats.VERIFIER_TASK):
                return _verify(_statement(text))
            if text.startswith(formats.TESTS_TASK):
                return _write_tests(_statement(text), rng)
        except Foreign as e:
            raise DataError(
                f"prompt {prompt.id!r}: the workbook can only work on its own problems ({e}); "
                "use another sampler for this role"
            ) from None
        raise DataError(
            f"prompt {prompt.id!r}: the workbook knows the prompts of the author, judge, tests, "
            f"verifier and teacher only, not one that begins {text[:60]!r}"
        )

    def _write(self, text: str, kind: str, rng: Random) -> str:
        """An author's draft: rationale and problem in their tags, spoilt at the stated rate."""
        request = formats.parse_request(text)
        if request is None:
            raise DataError("an author's prompt without numbered concepts and a level")
        concepts, level = request
        flaw = ""
        if rng.random() < self.author_error:
            flaw = rng.choice(("tag", "concept", "step", "dangling"))
        wanted = _spoil(concepts, kind, rng) if flaw in ("concept", "step") else list(concepts)
        if flaw == "step" and len(concepts) > 1:
            wanted = rng.sample(concepts, len(concepts) - 1)
        content = self._draw(wanted, kind, rng)
        dangling = flaw == "dangling"
        if isinstance(content, Plan):
            reserved = self.novelty == "wording"
            statement = _MATH.write(content, rng, dangling=dangling, reserved=reserved)
        else:
            statement = _CODE.write(content, rng, dangling=dangling)
        named = content.concepts if not flaw else concepts
        rationale = [rng.choice(_OPENINGS).format(named[0])]
        rationale += [rng.choice(_LINKS).format(name) for name in named[1:]]
        rationale.append(rng.choice(_CLOSINGS).format(len(concepts), level))
        draft = formats.draft_block(" ".join(rationale), statement)
        if flaw == "tag":
            tag = rng.choice((formats.END_RATIONALE, formats.BEGIN_PROBLEM, formats.END_PROBLEM))
            draft = draft.replace(tag, tag.replace("!--", "!-"))
        return draft

    def _draw(self, concepts: list[str], kind: str, rng: Random) -> Plan | Program:
        """New content about these concepts within the book's partition."""
        known = _SKILLS if kind == "math" else _MOVES
        for name in concepts:
            if name not in known:
                raise DataError(f"the workbook knows no {kind} concept {name!r}")
        order = list(concepts)
        if kind == "code" and self.novelty in ("numbers", "wording"):
            raise DataError(f"the workbook has programs without novelty in {self.novelty} only")
        if kind == "code" and sum(_MOVES[name].folds for name in order) > 2:
            raise DataError(f"the workbook cannot combine {order}: at most two may be folds")
        for _ in range(_ATTEMPTS):
            rng.shuffle(order)
            content: Plan | Program | None
            if kind == "math":
                skills = [_SKILLS[name] for name in order]
                beyond = self.novelty == "numbers"
                content = draw_plan(rng, skills, admits=self._admits, beyond=beyond)
            else:
                moves = [_MOVES[name] for name in order]
                content = draw_program(rng, moves, admits=self._admits)
            if content is not None:
                return content
        raise DataError(f"the workbook found no {self.partition} problem about {concepts}")

    def _admits(self, content: str) -> bool:
        return partition_of(content) == self.partition

    def _judge(self, text: str, kind: str, rng: Random) -> str:
        """A critique by five criteria and the verdict, misread at the stated rate."""
        request = formats.parse_request(text)
        draft = formats.parse_draft(text[text.rfind(formats.BEGIN_RATIONALE) :])
        lines = ["Format: Perfect - both parts stand in their places."]
        sound = True

        def rate(criterion: str, good: bool, praise: str, blame: str) -> None:
            nonlocal sound
            sound = sound and good
            grade, reason = ("Perfect", praise) if good else ("Bad", blame)
            lines.append(f"{criterion}: {grade} - {reason}.")

        if request is None or draft is None:
            lines[0] = "Format: Bad - there is no readable draft."
            sound = False
        else:
            concepts, level = request
            draft_concepts: tuple[str, ...] = ()
            answerable, blame = True, ""
            try:
                content = _read(_MATH if kind == "math" else _CODE, draft[1])
                draft_concepts = content.concepts
                if isinstance(content, Plan):
                    content.verify()
            except (Foreign, IllPosed) as e:
                answerable, blame = False, str(e)
            rate("Accuracy", answerable, "every quantity is defined", blame)
            right = LEVELS.get(level) == len(draft_concepts)
            rate(
                "Difficulty",
                right,
                "the number of steps fits",
                f"{len(draft_concepts)} steps at {level}",
            )
            missing = ", ".join(sorted(set(concepts) - set(draft_concepts)))
            rate("Coverage", not missing, "every concept is needed", f"not needed: {missing}")
            rate("Solvability", answerable, "there is one answer, within range", blame)
        verdict = "perfect" if sound else "bad"
        if rng.random() < self.judge_error:
            misreading = rng.choice(("acceptable", "bad", "")) if sound else "perfect"
            verdict = misreading
        if verdict:
            lines.append(f"{formats.VERDICT_HEADING} {verdict}")
        return "\n".join(lines)

    def _teach(self, statement: str, kind: str, rng: Random) -> str:
        """A worked solution that closes the think block, with a slip at the stated rate."""
        slip = rng.random() < self.teacher_error
        try:
            if kind == "code":
                program = _CODE.read(statement)
                if slip:
                    program = Program(program.parts, program.addend + rng.choice((1, 2, 10)))
                thoughts, source = program.source()
                return "\n".join([*thoughts, f"</think>\n```python\n{source}\n```"])
            plan, variables = _MATH.read(statement)
            lines, answer = plan.solve(variables)
        except IllPosed as e:
            return f"This cannot be solved: {e}.\n</think>\nNo answer."
        if slip:
            wrong = max(0, answer + rng.choice((-10, -2, -1, 1, 2, 10)))
            wrong = wrong if wrong != answer else answer + 1
            lines[-1] = lines[-1].removesuffix(str(answer)) + str(wrong)
            answer = wrong
        return "\n".join([*lines, f"</think>\n\\boxed{{{answer}}}"])


def _spoil(concepts: tuple[str, ...], kind: str, rng: Random) -> list[str]:
    """The concepts with one exchanged for another that was not asked for."""
    known = _SKILLS if kind == "math" else _MOVES
    others = [name for name in known if name not in concepts]
    if kind == "code":  # another of its sort, so that it still combines with the rest
        gone = rng.choice(concepts)
        folds = gone in _MOVES and _MOVES[gone].folds
        others = [name for name in others if _MOVES[name].folds == folds]
    else:
        gone = rng.choice(concepts)
    return [rng.choice(others) if name == gone else name for name in concepts]


def _statement(prompt: str) -> str:
    return prompt.rpartition(formats.PROBLEM_HEADING)[2].strip()


def _verify(statement: str) -> str:
    try:
        plan, _ = _MATH.read(statement)
        answer = plan.verify()
    except IllPosed as e:
        return f"This cannot be checked: {e}."
    return f"Checked step by step by a second method.\n\\boxed{{{answer}}}"


def _write_tests(statement: str, rng: Random) -> str:
    try:
        return _CODE.read(statement).tests(rng)
    except IllPosed as e:
        return f"No tests can be written: {e}."

"""The engine: a model that continues many prompts at once in a fixed amount of memory.

The life of a completion: its prompt is encoded and prefilled once, alone; its state and last
logits are copied into a free slot, once for each sample; then in each step one token is drawn for
every slot, finished sequences leave, the model reads the drawn tokens, and waiting sequences take
the slots that became free. The last prompt token is read once, however many samples there are.

A sequence's numbers do not depend on how many others are running: `statewise.engine.slots` sees to
that for the model, and drawing always runs over all slots, idle ones included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from statewise.engine.sampling import NOT_A_NUMBER, pick, uniforms
from statewise.engine.scheduler import Scheduler
from statewise.engine.slots import Slots, Weights, open_slots
from statewise.errors import ConfigError, DataError, RunError
from statewise.model import Mamba2LM, State
from statewise.model.state import StateDtype
from statewise.records import Completion, FinishReason
from statewise.sampler import Prompt, SamplingParams

if TYPE_CHECKING:
    from statewise.text import Tokenizer

PREFILL_TOKENS = (
    2048  # a piece: bounds the memory of a long prompt; whole chunks of any power of two
)
INCOMPLETE = "\ufffd"  # what a tokenizer makes of bytes that are not yet a character


class Engine:
    """A `Sampler` over a model: fixed slots, continuous batching, one prefill for n samples.

    A completion depends on the prompt's text, the parameters and the seed, never on what else is
    sampled, on the order, on the slot or on the number of slots. On a CPU whose kernels fit the
    model that holds for every bit of the logits; with a GPU's kernels, for engines of one number of
    slots; where plain torch decodes, if `slots` is 1 or a multiple of 32, because other numbers
    leave a remainder that torch's vectorised functions round differently in the last bit
    (`docs/numerics.md`).

    Args:
        model: the weights; it is put into evaluation mode.
        tokenizer: text to ids and back. It may have fewer entries than the model, whose remaining
            logits are then never drawn.
        slots: how many sequences run at once. Their states are allocated here, once.
        weights: "int8" decodes with projections and head as int8 (`statewise.model.cpu.decode`):
            less memory to read for every token, slightly other logits. Prompts are read with the
            model's own weights.
        state: dtype in which recurrent states are kept; 16 bits halve what a GPU reads a token
            (`statewise.model.triton.decode`), at the error that docs/numerics.md tells.

    Raises:
        ConfigError: `slots` is below 1, or int8 weights or 16-bit states are not to be had.
        DataError: the tokenizer has more entries than the model's vocabulary.
    """

    def __init__(
        self,
        model: Mamba2LM,
        tokenizer: Tokenizer,
        *,
        slots: int = 32,
        weights: Weights = "model",
        state: StateDtype = "float32",
    ) -> None:
        if slots < 1:
            raise ConfigError(f"engine.slots: must be at least 1, found {slots}")
        known, entries = model.config.vocab_size, tokenizer.vocab_size
        if entries > known:
            raise DataError(
                f"tokenizer: it has {entries} entries, but the model's vocabulary has {known}; "
                "use the tokenizer that the model was trained with"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.slots = slots
        self._memory = open_slots(self.model, slots, weights=weights, state=state)
        self._busy = False

    @property
    def state_nbytes(self) -> int:
        """Bytes of the states of all slots: the memory of running sequences, at any length."""
        return self._memory.nbytes

    def sample(
        self, prompts: Iterable[Prompt | str], params: SamplingParams
    ) -> Iterator[Completion]:
        """Yield `params.n` completions for every prompt, as they finish.

        Args:
            prompts: pulled one by one as slots become free; a text gets its position ("0", "1",
                ...) as id.
            params: the same for all prompts.

        Yields:
            Completions. `completion_tokens` counts the end-of-sequence token, if it was drawn.

        Raises:
            DataError: a prompt is empty.
            RunError: the engine is still at work for an iterator that was not closed, or the
                model's logits are not finite numbers.
        """
        if isinstance(prompts, str):
            raise DataError("prompts: found a single text; put it in a list")
        named = (p if isinstance(p, Prompt) else Prompt(str(i), p) for i, p in enumerate(prompts))
        with self._session(named, params) as session:
            while session.admit():
                yield from session.step()

    def stream(self, prompt: str, params: SamplingParams) -> Iterator[str]:
        """Yield the text of one completion in pieces, as it grows.

        Joined, the pieces are the text of sample 0 of `sample([prompt], params)`. A character whose
        bytes are not all there yet is held back. Arguments and errors are those of `sample`.
        """
        yielded = 0  # characters
        shown, read = 0, 0  # tokens behind the last piece but one, and behind the last piece
        single = dataclasses.replace(params, n=1)
        with self._session(iter([Prompt("0", prompt)]), single) as session:
            while session.admit():
                finished = session.step()
                if finished:
                    # Only now is it certain that nothing will complete a last, broken character.
                    yield finished[0].text[yielded:]
                    return
                # A tokenizer may spell a token differently at the start of a text, so a piece is
                # the difference that the new tokens make to the text from a little further back.
                ids = session.ids(0)
                before = self.tokenizer.decode(ids[shown:read])
                after = self.tokenizer.decode(ids[shown:])
                if len(after) > len(before) and not after.endswith(INCOMPLETE):
                    yield after[len(before) :]
                    yielded += len(after) - len(before)
                    shown, read = read, len(ids)

    @contextmanager
    def _session(self, prompts: Iterator[Prompt], params: SamplingParams) -> Iterator[_Session]:
        if self._busy:
            raise RunError(
                "the engine is still sampling: finish or close() that iterator first, "
                "or use a second Engine"
            )
        self._busy = True
        try:
            yield _Session(self.model, self.tokenizer, self._memory, self.slots, prompts, params)
        finally:
            self._busy = False


@dataclass(frozen=True, slots=True)
class _Prefilled:
    """A prompt that the model has read: what its samples start from."""

    prompt: Prompt
    num_tokens: int
    state: State  # one row
    logits: Tensor  # (v,)
    seen: Tensor  # (v,) bool


class _Session:
    """One call of the engine: the sequences that wait and run, and the arrays they run on.

    Arrays have one row a slot and stay where they are; only what starts or ends is touched in
    Python, the rest is done for all rows at once.
    """

    def __init__(
        self,
        model: Mamba2LM,
        tokenizer: Tokenizer,
        memory: Slots,
        slots: int,
        prompts: Iterator[Prompt],
        params: SamplingParams,
    ) -> None:
        width = tokenizer.vocab_size
        device = model.device
        self._model = model
        self._tokenizer = tokenizer
        self._memory = memory
        self._params = params
        self._scheduler = Scheduler(prompts, params.n, slots)
        self._prefilled: _Prefilled | None = None
        # Logits beyond the tokenizer's entries are padding of the vocabulary: never drawn.
        self._logits = torch.zeros(slots, width, device=device)
        self._seen: Tensor | None = None
        if params.repetition_penalty != 1:
            self._seen = torch.zeros(slots, width, dtype=torch.bool, device=device)
        self._rows = np.arange(slots)
        self._running = np.zeros(slots, dtype=bool)
        self._length = np.zeros(slots, dtype=np.int64)  # tokens drawn
        self._prompt_length = np.zeros(slots, dtype=np.int64)
        self._tokens = np.zeros((slots, params.max_tokens), dtype=np.int32)
        self._uniforms = np.zeros((slots, params.max_tokens))

    def admit(self) -> bool:
        """Fill the free slots. False when nothing runs and nothing waits."""
        for slot, sequence in self._scheduler.admit():
            if sequence.sample == 0:
                self._prefilled = self._prefill(sequence.prompt)
            assert self._prefilled is not None
            self._start(slot, sequence.sample, self._prefilled)
            if sequence.sample == self._params.n - 1:
                self._prefilled = None
        return bool(self._scheduler.running)

    def step(self) -> list[Completion]:
        """Draw one token for every running sequence; return those that this finished."""
        drawn = self._draw()
        self._tokens[self._rows, self._length] = drawn
        self._length += self._running
        stopped = drawn == self._tokenizer.eos_id
        over = (stopped | (self._length == self._params.max_tokens)) & self._running
        finished = []
        if over.any():
            finished = [self._finish(s, bool(stopped[s])) for s in np.flatnonzero(over).tolist()]
        if self._scheduler.running:
            self._read(drawn)
        return finished

    def ids(self, slot: int) -> list[int]:
        """The tokens drawn so far by the sequence that runs in `slot`."""
        ids: list[int] = self._tokens[slot, : self._length[slot]].tolist()
        return ids

    @torch.inference_mode()
    def _prefill(self, prompt: Prompt) -> _Prefilled:
        """Read a prompt alone, so that nothing beside it can change how it is rounded."""
        ids = self._tokenizer.encode(prompt.text)
        if not ids:
            raise DataError(f"prompt {prompt.id!r}: it is empty; a completion needs a first token")
        tokens = torch.tensor([ids], device=self._model.device)
        state: State | None = None
        for piece in tokens.split(PREFILL_TOKENS, dim=1):
            out = self._model(piece, state, logits_to_keep=1)
            state = out.state
        assert state is not None
        width = self._logits.shape[1]
        seen = torch.zeros(width, dtype=torch.bool, device=tokens.device)
        seen[tokens[0]] = True
        return _Prefilled(prompt, len(ids), state, out.logits[0, -1, :width], seen)

    @torch.inference_mode()
    def _start(self, slot: int, sample: int, prefilled: _Prefilled) -> None:
        """Copy a prefilled prompt into a slot as its sample number `sample`."""
        self._memory.write_(np.array([slot]), prefilled.state)
        self._logits[slot] = prefilled.logits
        if self._seen is not None:
            self._seen[slot] = prefilled.seen
        p = self._params
        self._uniforms[slot] = uniforms(p.seed, prefilled.prompt.text, sample, p.max_tokens)
        self._running[slot] = True
        self._length[slot] = 0
        self._prompt_length[slot] = prefilled.num_tokens

    @torch.inference_mode()
    def _draw(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """One token for every slot (idle ones: whatever), drawn from the current logits."""
        uniform = torch.from_numpy(self._uniforms[self._rows, self._length])
        token = pick(self._logits, uniform.to(self._logits.device), self._params, self._seen)
        if self._seen is not None:
            self._seen.scatter_(1, token.clamp(min=0)[:, None], True)
        drawn = token.cpu().numpy()
        broken = (drawn == NOT_A_NUMBER) & self._running
        if broken.any():
            sequence = self._scheduler.running[int(np.flatnonzero(broken)[0])]
            raise RunError(
                f"prompt {sequence.prompt.id!r}: the model's logits are not finite numbers; "
                "its weights are damaged, or its dtype is too narrow"
            )
        return drawn

    @torch.inference_mode()
    def _read(self, tokens: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Let the model read one token for each running sequence; leaves the next logits."""
        running = np.flatnonzero(self._running)
        logits = self._memory.step_(tokens[running], running)[:, : self._logits.shape[1]]
        self._logits[torch.from_numpy(running)] = logits

    def _finish(self, slot: int, stopped: bool) -> Completion:
        sequence = self._scheduler.retire(slot)
        ids = self.ids(slot)
        completion = Completion(
            prompt_id=sequence.prompt.id,
            sample=sequence.sample,
            text=self._tokenizer.decode(ids[:-1] if stopped else ids),
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            prompt_tokens=int(self._prompt_length[slot]),
            completion_tokens=len(ids),
            seed=self._params.seed,
        )
        self._running[slot] = False
        self._length[slot] = 0  # idle rows draw into their first place, over and over
        return completion

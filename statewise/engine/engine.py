"""The engine: a model that continues many prompts at once in a fixed amount of memory.

A request is a value, a prompt with parameters of its own, and any number of callers put requests
into one running engine. In each step prompts whose turn it is are read, alone, at most
`PREFILL_TOKENS` of them; a prompt's state and last logits are copied into a free slot, once for
each sample; one token is drawn for every slot, sequences that end leave, and the model reads the
drawn tokens. The last prompt token is read once, however many samples there are.

A sequence's numbers do not depend on how many others are running: `statewise.engine.slots` sees to
that for the model, `statewise.engine.sampling` for the draws.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from statewise.engine import prefill
from statewise.engine.request import Event, Failed, Finished, Request, Token
from statewise.engine.rows import Rows
from statewise.engine.sampling import NOT_A_NUMBER
from statewise.engine.scheduler import Entry, Scheduler
from statewise.engine.slots import Weights, open_slots
from statewise.errors import ConfigError, DataError, RunError, StatewiseError
from statewise.model.language_model import LanguageModel
from statewise.model.state import StateDtype
from statewise.records import Completion, FinishReason
from statewise.sampler import Prompt, SamplingParams

if TYPE_CHECKING:
    from statewise.text import Tokenizer

INCOMPLETE = "\ufffd"  # what a tokenizer makes of bytes that are not yet a character


class Engine:
    """A model that runs requests: fixed slots, continuous batching, one prefill for n samples.

    `add`, `step` and `abort` are for a caller with a loop of its own, a server say; `sample` (which
    makes an engine a `Sampler`) and `stream` are drivers over them. All may be used at once, one
    call at a time: an engine takes no lock, callers in several threads take turns.

    A completion depends on the prompt's text, the parameters and the seed, never on what else runs,
    on the order, on the slot or on the number of slots. On a CPU whose kernels fit the model that
    holds for every bit of the logits; with a GPU's kernels, for engines of one number of slots;
    where plain torch decodes, if `slots` is 1 or a multiple of 32, because other numbers leave a
    remainder that torch's vectorised functions round differently in the last bit
    (`docs/numerics.md`).

    Args:
        model: the weights; it is put into evaluation mode.
        tokenizer: text to ids and back. It may have fewer entries than the model, whose remaining
            logits are then never drawn. A completion ends at any of its `end_ids`, which is no part
            of the text.
        slots: how many sequences run at once. Their states are allocated here, once.
        weights: "int8" decodes with projections and head as int8 (`statewise.engine.slots.cpu`):
            less memory to read for every token, slightly other logits. Prompts are read with the
            model's own weights.
        state: dtype in which recurrent states are kept; 16 bits halve what a GPU reads a token
            (`statewise.engine.slots.triton`), at the error that docs/numerics.md tells.

    Raises:
        ConfigError: `slots` is below 1, or int8 weights or 16-bit states are not to be had.
        DataError: the tokenizer has more entries than the model's vocabulary.
    """

    def __init__(
        self,
        model: LanguageModel[Any],
        tokenizer: Tokenizer,
        *,
        slots: int = 32,
        weights: Weights = "model",
        state: StateDtype = "float32",
    ) -> None:
        if slots < 1:
            raise ConfigError(f"engine.slots: must be at least 1, found {slots}")
        known, entries = model.vocab_size, tokenizer.vocab_size
        if entries > known:
            raise DataError(
                f"tokenizer: it has {entries} entries, but the model's vocabulary has {known}; "
                "use the tokenizer that the model was trained with"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.slots = slots
        memory = open_slots(self.model, slots, weights=weights, state=state)
        self._rows = Rows(memory, slots, entries, model.device)
        self._scheduler = Scheduler(slots)
        self._entries: dict[int, Entry] = {}  # requests that are not over, first come first
        self._added = 0
        self._events: deque[Event] = deque()  # that `step` has not handed over yet

    @property
    def state_nbytes(self) -> int:
        """Bytes of the states of all slots: the memory of running sequences, at any length."""
        return self._rows.memory.nbytes

    @property
    def unfinished(self) -> int:
        """Requests that are not over: waiting or running."""
        return len(self._entries)

    def add(self, request: Request) -> int:
        """Let a request wait for its turn; requests start in the order in which they came.

        Returns:
            its id, by which events and `abort` name it. No two requests of an engine share one.
        """
        return self._add(request, self._events)

    def step(self) -> list[Event]:
        """Run for one token: read prompts up to a piece, draw a token for each running sequence.

        Returns:
            What happened to requests that came by `add`, in order, all of a request before its
            end: a `Token` for each token (if the request streams), a `Finished` for each
            completion, or one `Failed`. Empty when nothing is left to do, and while a long prompt
            is read and nothing else runs. A request fails alone: of an empty prompt with
            DataError, of logits that are no finite numbers with RunError.

        An exception that comes from elsewhere (an interruption, no memory) leaves the sequences at
        an unknown point: it is raised here, every request that had begun fails, and the engine goes
        on as new.
        """
        self._advance()
        events = list(self._events)
        self._events.clear()
        return events

    def abort(self, id: int) -> bool:
        """End a request now: free its slots, or take it out of the queue. No event follows.

        Returns:
            Whether there was anything to end; not for an id that is over already, which a caller
            cannot always know, or that was never given.
        """
        entry = self._entries.get(id)
        if entry is None:
            return False
        self._end(entry)
        others = [event for event in entry.inbox if event.id != id]
        entry.inbox.clear()
        entry.inbox.extend(others)
        return True

    def sample(
        self, prompts: Iterable[Prompt | str], params: SamplingParams
    ) -> Iterator[Completion]:
        """Yield `params.n` completions for every prompt, as they finish.

        Closing the iterator ends what it has not yielded yet.

        Args:
            prompts: pulled one by one as slots become free; a text gets its position ("0", "1",
                ...) as id.
            params: the same for all prompts.

        Yields:
            Completions. `completion_tokens` counts the end-of-sequence token, if it was drawn.

        Raises:
            DataError: a prompt is empty.
            RunError: the model's logits are not finite numbers.
        """
        if isinstance(prompts, str):
            raise DataError("prompts: found a single text; put it in a list")
        named = (p if isinstance(p, Prompt) else Prompt(str(i), p) for i, p in enumerate(prompts))
        with closing(_Caller(self)) as caller:
            while True:
                while self._scheduler.room > 0 or not caller.unfinished:
                    prompt = next(named, None)
                    if prompt is None:
                        break
                    caller.add(Request(prompt, params, stream=False))
                if not caller.unfinished:
                    return
                for event in caller.events():
                    if isinstance(event, Finished):
                        yield event.completion

    def stream(self, prompt: str, params: SamplingParams) -> Iterator[str]:
        """Yield the text of one completion in pieces, as it grows.

        Joined, the pieces are the text of sample 0 of `sample([prompt], params)`. A character whose
        bytes are not all there yet is held back. Arguments and errors are those of `sample`.
        """
        ids: list[int] = []
        yielded = 0  # characters
        shown, read = 0, 0  # tokens behind the last piece but one, and behind the last piece
        with closing(_Caller(self)) as caller:
            caller.add(Request(Prompt("0", prompt), dataclasses.replace(params, n=1)))
            while caller.unfinished:
                for event in caller.events():
                    if isinstance(event, Finished):
                        # Only now is it certain that nothing will complete a broken character.
                        yield event.completion.text[yielded:]
                    elif isinstance(event, Token) and event.token not in self.tokenizer.end_ids:
                        # A tokenizer may spell a token differently at the start of a text, so a
                        # piece is the difference that the new tokens make to the text from a
                        # little further back.
                        ids.append(event.token)
                        before = self.tokenizer.decode(ids[shown:read])
                        after = self.tokenizer.decode(ids[shown:])
                        if len(after) > len(before) and not after.endswith(INCOMPLETE):
                            yield after[len(before) :]
                            yielded += len(after) - len(before)
                            shown, read = read, len(ids)

    def _add(self, request: Request, inbox: deque[Event]) -> int:
        entry = Entry(self._added, request, inbox)
        self._added += 1
        self._entries[entry.id] = entry
        self._scheduler.add(entry)
        return entry.id

    @torch.inference_mode()
    def _advance(self) -> None:
        try:
            self._admit()
            if self._scheduler.running:
                self._decode()
        except BaseException as error:
            self._start_anew(error)
            raise

    def _admit(self) -> None:
        """Read prompts, up to a piece in all, and start what is read in free slots."""
        budget = prefill.PREFILL_TOKENS
        while entry := self._scheduler.turn():
            if entry.prefill is None:
                try:
                    ids = self._encode(entry.request.prompt)
                except StatewiseError as error:
                    self._fail(entry, error)
                    continue
                entry.prefill, entry.prompt_tokens = prefill.Prefill(ids), len(ids)
            while pending := entry.prefill.pending:
                if pending > budget:
                    return
                entry.prefill.read(self.model)
                budget -= pending
            for slot, sequence in self._scheduler.start():
                self._rows.start(slot, sequence, entry.prefill)
            if entry.started == entry.request.params.n:
                entry.prefill = None

    def _encode(self, prompt: Prompt) -> list[int]:
        ids = list(self.tokenizer.encode(prompt.text))
        if not ids:
            raise DataError(f"prompt {prompt.id!r}: it is empty; a completion needs a first token")
        return ids

    def _decode(self) -> None:
        """Draw a token for every running sequence, and let the model read those that go on."""
        rows, running = self._rows, self._scheduler.running
        drawn = rows.draw()
        for slot in np.flatnonzero(rows.running & (drawn == NOT_A_NUMBER)).tolist():
            if slot in running:  # else it has gone with another sample of its request
                entry = running[slot].entry
                message = (
                    f"prompt {entry.request.prompt.id!r}: the model's logits are not finite "
                    "numbers; its weights are damaged, or its dtype is too narrow"
                )
                self._fail(entry, RunError(message))
        for slot in np.flatnonzero(rows.streamed).tolist():
            sequence = running[slot]
            token = Token(sequence.entry.id, sequence.sample, int(drawn[slot]))
            sequence.entry.inbox.append(token)
        ends = np.array(self.tokenizer.end_ids, dtype=drawn.dtype)
        stopped = (drawn[:, None] == ends).any(axis=1)
        over = rows.running & (stopped | (rows.length == rows.limit))
        if over.any():
            for slot in np.flatnonzero(over).tolist():
                self._finish(slot, bool(stopped[slot]))
        if running:
            rows.read(drawn)

    def _finish(self, slot: int, stopped: bool) -> None:
        sequence, ids = self._scheduler.running[slot], self._rows.ids(slot)
        entry = sequence.entry
        completion = Completion(
            prompt_id=entry.request.prompt.id,
            sample=sequence.sample,
            text=self.tokenizer.decode(ids[:-1] if stopped else ids),
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            prompt_tokens=entry.prompt_tokens,
            completion_tokens=len(ids),
            seed=entry.request.params.seed,
        )
        entry.inbox.append(Finished(entry.id, completion))
        entry.finished += 1
        if entry.finished == entry.request.params.n:
            del self._entries[entry.id]
        self._scheduler.retire(slot)
        self._rows.stop(slot)

    def _fail(self, entry: Entry, error: StatewiseError) -> None:
        self._end(entry)
        entry.inbox.append(Failed(entry.id, error))

    def _end(self, entry: Entry) -> None:
        del self._entries[entry.id]
        for slot in self._scheduler.remove(entry):
            self._rows.stop(slot)

    def _start_anew(self, error: BaseException) -> None:
        """After an exception from anywhere: what has begun is lost, what waits still waits."""
        for slot in range(self.slots):
            self._rows.stop(slot)
        self._scheduler = Scheduler(self.slots)
        for entry in list(self._entries.values()):
            if entry.begun:
                del self._entries[entry.id]
                message = (
                    f"prompt {entry.request.prompt.id!r}: the engine was interrupted "
                    f"({type(error).__name__}: {error}) while it was continued; ask again"
                )
                entry.inbox.append(Failed(entry.id, RunError(message)))
            else:
                self._scheduler.add(entry)


class _Caller:
    """One driver among an engine's callers: its requests, and their events as they come."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._inbox: deque[Event] = deque()
        self.unfinished: dict[int, int] = {}  # completions to come, by the id of the request

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self.unfinished[self._engine._add(request, self._inbox)] = request.params.n

    def events(self) -> Iterator[Event]:
        """What has happened meanwhile; if nothing has, what the next step brings.

        Raises:
            StatewiseError: a request failed.
        """
        if not self._inbox:
            self._engine._advance()
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, Failed):
                del self.unfinished[event.id]
                raise event.error
            if isinstance(event, Finished):
                self.unfinished[event.id] -= 1
                if not self.unfinished[event.id]:
                    del self.unfinished[event.id]
            yield event

    def close(self) -> None:
        """End what is not over."""
        for request in self.unfinished:
            self._engine.abort(request)

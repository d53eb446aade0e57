"""Doubles for the engine's tests: two tokenizers and a model that recites."""

import string

import torch

from statewise.model import LMOutput, State


class Letters:
    """A tokenizer of single characters: id 0 ends a text, the others are letters and digits."""

    eos_id = 0
    end_ids = (0,)
    alphabet = string.ascii_letters + string.digits + " +=?"

    @property
    def vocab_size(self):
        return len(self.alphabet) + 1

    def encode(self, text):
        return [self.alphabet.index(c) + 1 for c in text]

    def decode(self, ids):
        return "".join(self.alphabet[i - 1] for i in ids)


class Bytes:
    """A tokenizer of bytes: 256 ends a text."""

    eos_id = 256
    end_ids = (256,)
    vocab_size = 257

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


class Recital:
    """A model that recites: after a prompt whose last token is t it says `scripts[t]`, in order.

    What it says next depends on its state alone, so a token that is fed twice, or to the wrong
    row, is heard at once.
    """

    device = torch.device("cpu")
    decoder = ""

    def __init__(self, vocab_size, scripts):
        self.vocab_size = vocab_size
        self.scripts = scripts
        self.prefilled = 0
        self.stepped = 0

    def eval(self):
        return self

    def zero_state(self, batch):
        return State(
            torch.zeros(1, batch, 1, 1),
            torch.zeros(1, batch, 1, 1, 2),
            torch.zeros(batch, dtype=torch.int64),
        )

    def _say(self, ssm):
        logits = torch.full((ssm.shape[1], self.vocab_size), -30.0)
        for row, (t, place) in enumerate(ssm[0, :, 0, 0].long().tolist()):
            script = self.scripts.get(t, [0])
            logits[row, script[place % len(script)]] = 30.0
        return logits

    def __call__(self, tokens, state=None, *, logits_to_keep=0):
        self.prefilled += 1
        after = self.zero_state(1)
        after.ssm[0, 0, 0, 0, 0] = tokens[0, -1]
        return LMOutput(self._say(after.ssm)[:, None], after)

    def step_(self, tokens, state):
        self.stepped += 1
        state.ssm[0, :, 0, 0, 1] += 1
        return self._say(state.ssm)

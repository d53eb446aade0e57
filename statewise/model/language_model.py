"""What everything above asks of a language model: to train it, run it, time it and keep it.

`Mamba2LM` has it, and the Transformer that it is measured against; nobody asks which of the two a
model is. A further architecture is a further class with these members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from statewise.model.layout import Layout


class Memory(Protocol):
    """What a model remembers of some running sequences: `State`, or a cache of keys and values."""

    @property
    def batch(self) -> int:
        """Number of sequences."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        ...

    def write_(self, slots: Tensor, rows: Self) -> None:
        """Overwrite the sequences at `slots` (k,) with the k sequences of `rows`."""
        ...


class FolderTokenizer(Protocol):
    """What a checkpoint needs of a tokenizer (`statewise.text.Tokenizer` has it)."""

    eos_id: int

    @property
    def vocab_size(self) -> int:
        """How many ids there are: every id is below it."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder."""
        ...


M = TypeVar("M", bound=Memory)


class LanguageModel(Protocol[M]):
    """A model of tokens with a memory of type M. b rows of l tokens, d wide.

    Called with tokens, a memory or None, `layout=` and `logits_to_keep=`, it returns something with
    `logits` (b, l, vocab_size) float32 and `state`, the memory after each row's last token; the
    memory that it is given is not written to.
    """

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        ...

    @property
    def num_params(self) -> int:
        """Parameters, a tied head counted once."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the large weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def decoder(self) -> str:
        """Whose kernels decode it: "cpu", "triton", or "" where only `step_` does."""
        ...

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """Its layers, of one class, in order: what is sharded and computed again one by one."""
        ...

    def hidden(
        self, tokens: Tensor, state: M | None = None, *, layout: Layout | None = None
    ) -> tuple[Tensor, M | None]:
        """The last hidden layer (b, l, d), normed, and the memory, where one was kept."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) float32."""
        ...

    def zero_state(self, batch: int) -> M:
        """The memory of `batch` sequences before any token."""
        ...

    def step_(self, tokens: Tensor, state: M) -> Tensor:
        """Read one token a row (b,), overwrite the memory; logits (b, vocab_size) float32."""
        ...

    def save(
        self,
        folder: Path,
        tokenizer: FolderTokenizer,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a checkpoint, which `transformers` reads too; it appears whole or not at all.

        Args:
            folder: where it shall be.
            tokenizer: written beside the weights.
            weights: whole tensors by the names of `named_parameters`, where the model itself holds
                pieces of them; None: its own.
        """
        ...

    def eval(self) -> Self:
        """Leave training mode."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights and their names."""
        ...

    # As `torch.nn.Module` declares it: hooks are run, and arguments are those of `forward`.
    __call__: Any

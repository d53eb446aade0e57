"""From logits to token ids, for all rows at once, from random streams that belong to a sequence.

A token is drawn by inverting the cumulative distribution at one uniform number. That number is
named by (seed, prompt text, sample index, position), so a sequence draws the same in any company,
and one that is resumed at a position goes on with the draws it would have had.

Shapes: b rows (one a sequence), v entries of the vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.sampler import SamplingParams

NOT_A_NUMBER = -1  # the "token" of a row whose logits hold NaN or infinity


def uniforms(
    seed: int, prompt: str, sample: int, count: int, start: int = 0
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The numbers in [0, 1) that sample `sample` of `prompt` draws at `start .. start + count - 1`.

    Philox is a function of (key, counter): the key is a hash of the sequence's name, the counter
    is the position, and no state is carried from one draw to the next.

    Args:
        seed: the run's seed, 0 or more.
        prompt: the text of the prompt; not its id, which says nothing about the sequence.
        sample: index of the sample, 0 or more.
        count: how many numbers.
        start: position of the first one.

    Returns:
        (count,) float64.
    """
    # surrogatepass: a prompt with a lone surrogate is odd, but still a prompt.
    name = f"{seed}\x1f{sample}\x1f{prompt}".encode("utf-8", "surrogatepass")
    key = int.from_bytes(hashlib.sha256(name).digest()[:16], "little")
    stream = np.random.Philox(key=key)
    stream.advance(start // 4)  # one step of the counter makes four numbers
    return np.random.Generator(stream).random(start % 4 + count)[start % 4 :]


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Make tokens that already occurred less likely: divide what is positive, multiply the rest.

    Keskar et al. 2019 (arXiv:1909.05858), section 4.1, with the sign rule that all engines use.

    Args:
        logits: (b, v). Not modified.
        seen: (b, v) bool, true for every token of the prompt and of the completion so far.
        penalty: (b, 1) in the dtype of `logits`; above 1 discourages, below 1 encourages.

    Returns:
        (b, v), in the dtype of `logits`.
    """
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised, logits)


@dataclass(frozen=True, slots=True)
class RowParams:
    """The parameters by which each of b rows is drawn, and what any of them asks for.

    Attributes:
        temperature: (b, 1) float64; 1 in greedy rows.
        greedy: (b,) bool.
        top_k: (b, 1) int64; 0 is off.
        top_p: (b, 1) float64.
        penalty: (b, 1) float32.
        largest_k: of `top_k`.
    """

    temperature: Tensor
    greedy: Tensor
    top_k: Tensor
    top_p: Tensor
    penalty: Tensor
    any_greedy: bool
    all_greedy: bool
    tempered: bool
    largest_k: int
    nucleus: bool
    penalised: bool

    @classmethod
    def of(cls, table: npt.NDArray[np.float64], device: torch.device | str = "cpu") -> RowParams:
        """From a table (b, 4) of `table_row`s; it may change afterwards."""
        temperature, top_k, top_p, penalty = table.T.copy()[:, :, None]
        greedy = temperature == 0
        return cls(
            temperature=torch.from_numpy(np.where(greedy, 1, temperature)).to(device),
            greedy=torch.from_numpy(greedy[:, 0]).to(device),
            top_k=torch.from_numpy(top_k).to(device).long(),
            top_p=torch.from_numpy(top_p).to(device),
            penalty=torch.from_numpy(penalty).to(device).float(),
            any_greedy=bool(greedy.any()),
            all_greedy=bool(greedy.all()),
            tempered=bool((temperature != 1).any()),
            largest_k=int(top_k.max()),
            nucleus=bool((top_p < 1).any()),
            penalised=bool((penalty != 1).any()),
        )


def table_row(params: SamplingParams) -> tuple[float, float, float, float]:
    """What of a sequence's parameters a draw depends on: one row of the table for `RowParams`."""
    return params.temperature, params.top_k, params.top_p, params.repetition_penalty


def pick(logits: Tensor, uniform: Tensor, rows: RowParams, seen: Tensor | None = None) -> Tensor:
    """Choose one token a row: penalty, temperature, top-k, top-p, then the draw, in this order.

    Top-k keeps every token as likely as the k-th; top-p keeps the smallest set of most likely
    tokens with at least the mass `top_p`, lower ids first among equals. Weights are summed in
    float64, so that rounding decides a draw about once in 1e13 tokens.

    A row's token does not depend on the parameters of the others, to the last bit: what only some
    rows ask for is done to all and changes nothing in those that do not (a factor of 1, a
    threshold below everything, the old value kept), and what none asks for is left out.

    Args:
        logits: (b, v) float. Not modified.
        uniform: (b,) float64 in [0, 1), on the same device. Not read in greedy rows.
        rows: the parameters of the b rows.
        seen: (b, v) bool, needed when `rows.penalised`; not read in rows without a penalty.

    Returns:
        (b,) int64 token ids. At temperature 0 the most likely, the lowest id among equals. A row
        that holds NaN or nothing finite gets `NOT_A_NUMBER`.
    """
    if rows.penalised:
        assert seen is not None, "a repetition penalty needs the tokens already seen"
        logits = penalise(logits, seen, rows.penalty)
    best = logits.amax(-1, keepdim=True)
    if rows.all_greedy:
        token = _lowest_of(logits == best)
    else:
        token = _drawn(logits, best, uniform, rows)
        if rows.any_greedy:
            token = torch.where(rows.greedy, _lowest_of(logits == best), token)
    return token.masked_fill_(~best.squeeze(-1).isfinite(), NOT_A_NUMBER)


def _drawn(logits: Tensor, best: Tensor, uniform: Tensor, rows: RowParams) -> Tensor:
    width = logits.shape[-1]
    weights = logits.double().sub_(best)
    if rows.tempered:
        weights.div_(rows.temperature)
    weights.exp_()
    if rows.largest_k > 0:
        largest = logits.topk(min(rows.largest_k, width)).values
        kth = largest.gather(-1, rows.top_k.clamp(1, largest.shape[-1]) - 1)
        weights.masked_fill_((logits < kth) & (rows.top_k > 0), 0)
    if rows.nucleus:
        weights = _nucleus(weights, rows.top_p)
    cumulative = weights.cumsum(-1)
    target = (uniform * cumulative[:, -1]).unsqueeze(-1)
    # right=True: the first entry *above* the target, which never has the weight zero.
    token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return token.clamp_(max=width - 1)


def _lowest_of(mask: Tensor) -> Tensor:
    """(b, v) bool -> (b,) the first true column; torch's argmax promises none among equals."""
    width = mask.shape[-1]
    columns = torch.arange(width, device=mask.device)
    return torch.where(mask, columns, width).amin(-1)


def _nucleus(weights: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but the smallest set of largest weights (b, v) whose share is at least top_p (b, 1).

    A row whose top_p is 1 keeps all, the weights too that are lost in the rounding of the sum.
    """
    falling = _falling(weights)
    mass = falling.cumsum(-1)
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    size = (before < top_p * mass[:, -1:]).sum(-1, keepdim=True).clamp_(min=1)
    smallest = falling.gather(-1, size - 1)
    larger, tied = weights > smallest, weights == smallest
    room = size - larger.sum(-1, keepdim=True)
    kept = larger | (tied & (tied.cumsum(-1) <= room)) | (top_p == 1)
    return weights.masked_fill(~kept, 0)


def _falling(weights: Tensor) -> Tensor:
    """Each row from its largest to its smallest value."""
    if weights.device.type == "cpu":  # numpy sorts plain values 20 times faster than torch here
        return torch.from_numpy(np.sort(weights.numpy(), axis=-1)).flip(-1)
    return weights.sort(dim=-1, descending=True).values

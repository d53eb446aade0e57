"""From logits to token ids, for all rows at once, from random streams that belong to a sequence.

A token is drawn by inverting the cumulative distribution at one uniform number. That number is
named by (seed, prompt text, sample index, position), so a sequence draws the same in any company,
and one that is resumed at a position goes on with the draws it would have had.

Shapes: b rows (one a sequence), v entries of the vocabulary.
"""

from __future__ import annotations

import hashlib

import numpy as np
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


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that already occurred less likely: divide what is positive, multiply the rest.

    Keskar et al. 2019 (arXiv:1909.05858), section 4.1, with the sign rule that all engines use.

    Args:
        logits: (b, v). Not modified.
        seen: (b, v) bool, true for every token of the prompt and of the completion so far.
        penalty: above 1 discourages, below 1 encourages.

    Returns:
        (b, v), in the dtype of `logits`.
    """
    penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(seen, penalised, logits)


def pick(
    logits: Tensor, uniform: Tensor, params: SamplingParams, seen: Tensor | None = None
) -> Tensor:
    """Choose one token a row: penalty, temperature, top-k, top-p, then the draw, in this order.

    Top-k keeps every token as likely as the k-th; top-p keeps the smallest set of most likely
    tokens with at least the mass `top_p`, lower ids first among equals. Weights are summed in
    float64, so that rounding decides a draw about once in 1e13 tokens.

    Args:
        logits: (b, v) float. Not modified.
        uniform: (b,) float64 in [0, 1), on the same device. Not read at temperature 0.
        params: of these, `n`, `max_tokens` and `seed` are not read.
        seen: (b, v) bool, needed when `params.repetition_penalty` is not 1.

    Returns:
        (b,) int64 token ids. At temperature 0 the most likely, the lowest id among equals. A row
        that holds NaN or nothing finite gets `NOT_A_NUMBER`.
    """
    if params.repetition_penalty != 1:
        assert seen is not None, "a repetition penalty needs the tokens already seen"
        logits = penalise(logits, seen, params.repetition_penalty)
    best = logits.amax(-1, keepdim=True)
    if params.temperature == 0:
        token = _lowest_of(logits == best)
    else:
        weights = logits.double().sub_(best)
        if params.temperature != 1:
            weights.div_(params.temperature)
        weights.exp_()
        if 0 < params.top_k < logits.shape[-1]:
            kth = logits.topk(params.top_k).values[:, -1:]
            weights.masked_fill_(logits < kth, 0)
        if params.top_p < 1:
            weights = _nucleus(weights, params.top_p)
        cumulative = weights.cumsum(-1)
        target = (uniform * cumulative[:, -1]).unsqueeze(-1)
        # right=True: the first entry *above* the target, which never has the weight zero.
        token = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
        token.clamp_(max=logits.shape[-1] - 1)
    return token.masked_fill_(~best.squeeze(-1).isfinite(), NOT_A_NUMBER)


def _lowest_of(mask: Tensor) -> Tensor:
    """(b, v) bool -> (b,) the first true column; torch's argmax promises none among equals."""
    width = mask.shape[-1]
    columns = torch.arange(width, device=mask.device)
    return torch.where(mask, columns, width).amin(-1)


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Zero all but the smallest set of largest weights (b, v) whose share is at least `top_p`."""
    falling = _falling(weights)
    mass = falling.cumsum(-1)
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))
    size = (before < top_p * mass[:, -1:]).sum(-1, keepdim=True).clamp_(min=1)
    smallest = falling.gather(-1, size - 1)
    larger, tied = weights > smallest, weights == smallest
    room = size - larger.sum(-1, keepdim=True)
    return weights.masked_fill(~(larger | (tied & (tied.cumsum(-1) <= room))), 0)


def _falling(weights: Tensor) -> Tensor:
    """Each row from its largest to its smallest value."""
    if weights.device.type == "cpu":  # numpy sorts plain values 20 times faster than torch here
        return torch.from_numpy(np.sort(weights.numpy(), axis=-1)).flip(-1)
    return weights.sort(dim=-1, descending=True).values

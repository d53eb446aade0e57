"""The loss on documents that are not trained on: what settings are chosen by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from statewise.model.language_model import LanguageModel
from statewise.train.loss import SummedLoss
from statewise.train.packing import Document, pack, rows_of


@torch.no_grad()
def mean_loss(
    model: LanguageModel[Any], documents: Sequence[Document], *, row_tokens: int
) -> float:
    """Cross-entropy a target in nats, each document read once, in the precision of the weights.

    Args:
        model: as it is.
        documents: none longer than a row.
        row_tokens: a packed row holds at most this many tokens.
    """
    loss, device = SummedLoss(model), model.device
    total, targets = 0.0, 0
    for row in rows_of(documents, row_tokens):
        packed = pack(row).to(device)
        total += float(loss(packed))
        targets += packed.num_targets
    return total / targets

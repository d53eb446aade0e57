"""The loss of a packed row: a sum, in which logits exist a piece at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from statewise.model.language_model import LanguageModel
from statewise.train.packing import NO_TARGET, SHAPE_GRAIN, Row

LOGIT_ROWS = 2048  # of logits at a time: at a vocabulary of 32,768 they take 256 MiB


class SummedLoss(nn.Module):
    """Cross-entropy summed over a row's targets; logits are computed there and nowhere else.

    The sum is divided by the step's global number of targets outside, so that accumulation, short
    rows and the number of processes cannot bend the loss.
    """

    def __init__(self, model: LanguageModel[Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, row: Row) -> Tensor:
        """The summed loss of one packed row, float32."""
        hidden, _ = self.model.hidden(row.tokens, layout=row.layout)
        # Places with a target, filled up with places without one: the head meets few shapes.
        order = torch.argsort(row.targets.flatten() < 0, stable=True)
        count = max(-(-row.num_targets // SHAPE_GRAIN), 1) * SHAPE_GRAIN  # a part may have none
        kept = order[:count]
        hidden, targets = hidden.flatten(0, 1)[kept], row.targets.flatten()[kept]
        if len(kept) <= LOGIT_ROWS:
            return self._sum(hidden, targets)
        pieces = zip(hidden.split(LOGIT_ROWS), targets.split(LOGIT_ROWS), strict=True)
        # Logits are made again in the backward pass: only one piece of them exists at a time.
        return torch.stack([checkpoint(self._sum, *p, use_reentrant=False) for p in pieces]).sum()

    def _sum(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.model.head(hidden)
        return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=NO_TARGET)

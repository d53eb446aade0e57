"""Prefill and training of a few 7B-shaped layers, by every path that can be had here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.card import Card, apart
from statewise.model import Mamba2Config, Mamba2LM
from statewise.model.formats.configs import to_hf
from statewise.model.inside import Parts
from statewise.model.layout import Layout
from statewise.model.ops import Ops

BACKENDS = ("triton", "mamba_ssm", "fla", "torch")
VOCABULARY = 4096  # the head is not what is measured


def measure(card: Card, time_left: Callable[[], float]) -> dict[str, Any]:
    """Tokens a second at each length, and the share of the card's products."""
    plan = card.plan
    config = replace(
        plan.model, n_layer=plan.stack_layers,
        vocab_size=min(VOCABULARY, plan.model.vocab_size),
    )  # fmt: skip
    result: dict[str, Any] = {"layers": plan.stack_layers, "prefill": {}, "training": {}}
    with torch.inference_mode():
        for name, row in _prefills(card, config, time_left):
            result["prefill"][name] = row
    card.free()
    for name in BACKENDS:
        result["training"][name] = _if_time(
            card, time_left, 20, partial(_training, card, name, config)
        )
    return result


def _if_time(
    card: Card, time_left: Callable[[], float], needed: float, work: Callable[[], Any]
) -> Any:
    if time_left() < needed:
        return {"failed": f"left out: only {time_left():.0f} s were left"}
    return card.attempt(work)


def _prefills(
    card: Card, config: Mamba2Config, time_left: Callable[[], float]
) -> Iterator[tuple[str, Any]]:
    model = random_model(config, card.device, torch.bfloat16)
    paths: dict[str, Any] = {name: partial(_hidden, model, name) for name in BACKENDS}
    paths["transformers"] = card.attempt(lambda: _transformers(model, card.device))
    paths["torch.compile"] = partial(_compiled, model)  # last, and the shortest length alone
    longest = max(card.plan.lengths)
    text = torch.randint(0, config.vocab_size, (1, longest), device=card.device)
    few = text[:, :512]
    exact = _hidden(model, "torch", few)
    for name, path in paths.items():
        lengths = card.plan.lengths[: 1 if name == "torch.compile" else None]
        work = partial(_prefill, card, path, config, text, few, exact, lengths)
        yield name, _if_time(card, time_left, 120 if name == "torch.compile" else 20, work)


def random_model(config: Mamba2Config, device: torch.device, dtype: torch.dtype) -> Mamba2LM:
    """A model of random weights that never was anywhere but on its device."""
    with torch.device("meta"):
        model = Mamba2LM(config)
    model = model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight") or name.endswith(("norm_f.weight", ".D")):
                p.fill_(1.0)
            elif name.endswith("A_log"):
                p.uniform_(0.0, 2.7)
            elif name.endswith("dt_bias"):
                p.uniform_(-6.0, -2.0)
            else:
                p.normal_(std=0.02)
    return model.eval()


def flops(config: Mamba2Config) -> float:
    """Operations a token of the projections and the scan in all layers, forward."""
    c = config
    linear = 2.0 * c.d_model * (c.d_in_proj + c.d_inner)
    scan = c.chunk_size * (c.ngroups * c.d_state + c.d_inner) + 4.0 * c.d_inner * c.d_state
    return c.n_layer * (linear + scan)


def _hidden(model: Mamba2LM, backend: Any, text: Tensor) -> Tensor:
    model.use(backend)
    return model.hidden(text)[0]


def _compiled(model: Mamba2LM, text: Tensor) -> Tensor:
    """Our torch form with its three ops compiled."""
    return model.backbone(text, None, None, Layout.whole(*text.shape), _compiled_ops())[0]


_COMPILED: list[Ops] = []


def _compiled_ops() -> Ops:
    if not _COMPILED:
        plain = Parts()
        forms = (plain.conv, plain.scan, plain.recur, plain.norm)
        compiled = (torch.compile(f, dynamic=False) for f in forms)
        _COMPILED.append(Ops.of(Parts(*compiled, chunk_size=256)))
    return _COMPILED[0]


def _transformers(model: Mamba2LM, device: torch.device) -> Callable[[Tensor], Tensor]:
    from transformers import Mamba2Config as TheirConfig
    from transformers import Mamba2Model

    settings = to_hf(model.config, eos_id=None, dtype=torch.bfloat16)
    settings["time_step_limit"] = (0.0, float("inf"))  # as JSON it is spelt otherwise
    with torch.device(device):
        theirs = Mamba2Model(TheirConfig(**settings)).to(torch.bfloat16).eval()
    weights = {k.removeprefix("backbone."): v for k, v in model.state_dict().items()}
    theirs.load_state_dict({k: v for k, v in weights.items() if not k.startswith("lm_head")})
    return lambda text: theirs(text, use_cache=False).last_hidden_state


def _prefill(
    card: Card, path: Any, config: Mamba2Config, text: Tensor, few: Tensor, exact: Tensor,
    lengths: tuple[int, ...],
) -> dict[str, Any]:  # fmt: skip
    if isinstance(path, dict):
        return path
    result: dict[str, Any] = {"apart_from_definition": apart(path(few), exact)}
    for length in lengths:
        row = card.attempt(partial(_one_prefill, card, path, config, text[:, :length]))
        result[str(length)] = row
        if "failed" in row:
            break
    return result


def _one_prefill(card: Card, path: Any, config: Mamba2Config, text: Tensor) -> dict[str, float]:
    took = card.time(lambda: path(text))
    done = text.shape[1] * flops(config)
    return {
        "ms": took * 1e3, "tokens_per_s": text.shape[1] / took, "tflops": done / took / 1e12,
        "share_of_products": done / took / card.flops,
    }  # fmt: skip


def _training(card: Card, backend: Any, config: Mamba2Config) -> dict[str, Any]:
    """A step: float32 weights under bfloat16 autocast, loss, gradients, AdamW."""
    model = random_model(config, card.device, torch.float32).train()
    model.use(backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=card.is_gpu)
    rows: dict[str, Any] = {}
    for length in card.plan.training:
        text = torch.randint(0, config.vocab_size, (1, length + 1), device=card.device)
        row = card.attempt(partial(_one_step, card, model, optimizer, text))
        rows[str(length)] = row
        if "failed" in row:
            break
    return rows


def _one_step(
    card: Card, model: Mamba2LM, optimizer: torch.optim.Optimizer, text: Tensor
) -> dict[str, float]:
    c, length = model.config, text.shape[1] - 1

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(card.device.type, torch.bfloat16):
            logits = model(text[:, :-1]).logits
        F.cross_entropy(logits[0], text[0, 1:]).backward()
        optimizer.step()

    took = card.time(step)
    done = 3 * length * (flops(c) + 2.0 * c.d_model * c.vocab_size)
    return {
        "ms": took * 1e3, "tokens_per_s": length / took, "tflops": done / took / 1e12,
        "mfu_of_measured": done / took / card.flops,
    }  # fmt: skip

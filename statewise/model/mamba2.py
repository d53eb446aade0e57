"""The Mamba-2 language model. Parameter names and layouts are upstream's, so weights load by name.

Dao and Gu 2024 (arXiv 2405.21060), section 7; `mamba_ssm`'s Mamba2 block is the reference where
the paper is silent. b rows, l tokens, d d_model, h heads, p headdim, g groups, n d_state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from statewise.model.config import Mamba2Config
from statewise.model.formats.write import MAX_SHARD_BYTES
from statewise.model.inside import Inside
from statewise.model.language_model import FolderTokenizer
from statewise.model.layout import Layout
from statewise.model.norm import GatedRMSNorm, RMSNorm
from statewise.model.ops import DEFINITION, Backend, Ops, choose, products_in
from statewise.model.saving import write_checkpoint
from statewise.model.state import State


class LMOutput(NamedTuple):
    """`logits` (b, l, vocab_size) float32 and the `state` after each row's last token."""

    logits: Tensor
    state: State


class Mamba2Mixer(nn.Module):
    """One SSD layer: project, convolve, run the recurrence, gate, project back."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        c = config
        self.in_proj = nn.Linear(c.d_model, c.d_in_proj, bias=c.bias)
        self.conv1d = nn.Conv1d(
            c.conv_dim, c.conv_dim, c.d_conv, groups=c.conv_dim, bias=c.conv_bias
        )
        self.dt_bias = nn.Parameter(torch.empty(c.nheads))
        self.A_log = nn.Parameter(torch.empty(c.nheads))
        self.D = nn.Parameter(torch.ones(c.nheads))
        self.norm = GatedRMSNorm(c.d_inner)
        self.out_proj = nn.Linear(c.d_inner, c.d_model, bias=c.bias)

    def reset_parameters(self) -> None:
        """Draw A, dt and the output projection as `mamba_ssm` does for training from scratch."""
        c = self.config
        with torch.no_grad():
            self.A_log.copy_(torch.log(torch.empty(c.nheads).uniform_(1, 16)))
            low, high = math.log(c.dt_min), math.log(c.dt_max)
            dt = torch.exp(torch.empty(c.nheads).uniform_(low, high)).clamp(min=1e-4)
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it gives dt
            self.out_proj.weight.div_(math.sqrt(c.n_layer))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Mamba2Mixer:
        """Move and cast, but dt_bias, A_log and D to no less than float32: they set the decays."""
        kept = [t for p in self._exact().values() for t in (p, p.grad) if t is not None]

        def unless_kept(t: Tensor) -> Tensor:
            moved = fn(t)
            if moved.dtype.itemsize >= 4 or not any(t is k for k in kept):
                return moved
            return t.to(moved.device, torch.float32)

        return super()._apply(unless_kept, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name in self._exact():  # a half-precision file may be assigned instead of copied
            tensor = state_dict.get(prefix + name)
            if tensor is not None and tensor.dtype.itemsize < 4:
                state_dict[prefix + name] = tensor.float()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _exact(self) -> dict[str, nn.Parameter]:
        return {"dt_bias": self.dt_bias, "A_log": self.A_log, "D": self.D}

    def forward(
        self,
        u: Tensor,
        conv: Tensor | None,
        ssm: Tensor | None,
        layout: Layout,
        ops: Ops = DEFINITION,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix (b, l, d); takes and returns the layer's conv window and recurrent state."""
        zxbcdt = ops.project(self.in_proj, u)
        y, conv, ssm = self.mix(zxbcdt, conv, ssm, layout, ops)
        return ops.project(self.out_proj, y), conv, ssm

    def mix(
        self,
        zxbcdt: Tensor,
        conv: Tensor | None,
        ssm: Tensor | None,
        layout: Layout,
        ops: Ops = DEFINITION,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What lies between the projections, (b, l, d_in_proj) to (b, l, d_inner).

        It has no matrix of weights: it is most of what a layer keeps and little of what it
        computes, so that training may compute it again.
        """
        return ops.mix(zxbcdt, conv, ssm, self.inside(), layout)

    def step_(self, u: Tensor, conv: Tensor, ssm: Tensor, ops: Ops = DEFINITION) -> Tensor:
        """Mix one token a row, (b, d); overwrites the layer's conv window and recurrent state."""
        mixed: Tensor = self.out_proj(ops.step_(self.in_proj(u), conv, ssm, self.inside()))
        return mixed

    def inside(self) -> Inside:
        """The parameters between the two projections."""
        return Inside(
            self.config,
            self.conv1d.weight[:, 0],
            self.conv1d.bias,
            self.dt_bias,
            self.A_log,
            self.D,
            self.norm.weight,
        )


class Block(nn.Module):
    """Pre-norm residual block: one layer. The residual stream is float32.

    It is called like any module, tensors in and tensors out, and nothing reads past it but the
    decoders: hooks, a wrapper around `forward`, recomputation and sharding attach to it.
    """

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = Mamba2Mixer(config)

    def forward(
        self,
        residual: Tensor,
        conv: Tensor | None,
        ssm: Tensor | None,
        layout: Layout,
        ops: Ops = DEFINITION,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer over rows of tokens. Nothing that is given is written to.

        Args:
            residual: (b, l, d_model) float32.
            conv: (b, conv_dim, d_conv - 1) the layer's window before each row; None is zeros.
            ssm: (b, nheads, headdim, d_state) float32, its recurrent state; None is zeros.
            layout: the documents of the rows.
            ops: who computes.

        Returns:
            The residual stream after the layer, and window and state after each row's last token.
        """
        residual, normed = ops.norm(self.norm, residual)
        mixed, conv, ssm = self.mixer(normed, conv, ssm, layout, ops)
        return residual + mixed.float(), conv, ssm

    def step_(self, residual: Tensor, conv: Tensor, ssm: Tensor, ops: Ops = DEFINITION) -> Tensor:
        """One token a row, (b, d_model) float32; overwrites the layer's window and state."""
        return residual + self.mixer.step_(self.norm(residual), conv, ssm, ops).float()


class Backbone(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        tokens: Tensor,
        conv: Tensor | None,
        ssm: Tensor | None,
        layout: Layout,
        ops: Ops = DEFINITION,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, l) to the last hidden layer, normed (b, l, d_model).

        `conv` and `ssm` are those of all layers, (n_layer, b, ...), or None; arguments and results
        are otherwise those of `Block`.
        """
        residual = self.embeddings(tokens).float()
        convs, ssms = [], []
        for i, block in enumerate(self.layers):
            before = (None, None) if conv is None or ssm is None else (conv[i], ssm[i])
            residual, conv_after, ssm_after = block(residual, *before, layout, ops)
            convs.append(conv_after)
            ssms.append(ssm_after)
        _, normed = ops.norm(self.norm_f, residual)
        return normed, torch.stack(convs), torch.stack(ssms)


class Mamba2LM(nn.Module):
    """A language model of Mamba-2 layers only.

    One `forward` serves training, prefill and decoding; `step_` is its fast path for one token a
    row. A fresh model is initialised as `mamba_ssm` does.

    Args:
        config: the sizes.
        backend: who computes (`statewise.model.ops`). "cpu": the compiled kernels of
            `statewise.model.cpu`; "triton": those of `statewise.model.triton`, on a GPU;
            "mamba_ssm", "fla": the scan of those packages, on a GPU; "torch": the definition, on
            any device; "auto": the CPU's kernels or Triton's where they can work, else the
            definition. All agree within `docs/numerics.md`. A fresh model may still be moved and
            cast, so whether the backend can work is seen when it is first used, or by `use`.
    """

    def __init__(self, config: Mamba2Config, *, backend: Backend = "auto") -> None:
        super().__init__()
        self.config = config
        self._backend: Backend = backend
        self._rows: dict[tuple[torch.device, torch.dtype, torch.dtype], Ops] = {}
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise for training from scratch (embedding std 0.02; the rest per layer)."""
        nn.init.normal_(self.backbone.embeddings.weight, std=0.02)
        if not self.config.tie_embeddings:
            nn.init.normal_(self.lm_head.weight, std=0.02)
        for block in self.blocks:
            block.mixer.reset_parameters()

    @property
    def blocks(self) -> list[Block]:
        """Its layers, in order."""
        return list(self.backbone.layers)  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the large weights."""
        return self.lm_head.weight.dtype

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.config.vocab_size

    @property
    def num_params(self) -> int:
        """Parameters, a tied head counted once."""
        return self.config.num_params

    @property
    def backend(self) -> Backend:
        """What was asked for; `ops` is what that comes to here."""
        return self._backend

    def use(self, backend: Backend) -> None:
        """Choose another backend for a model that stands where it shall work.

        Raises:
            ConfigError: it cannot work there; the message says why, and nothing has changed.
        """
        choose(backend, self.config, self.device, self.dtype)
        self._backend = backend
        self._rows = {}

    @property
    def ops(self) -> Ops:
        """Who computes: chosen when first asked for, and again where the model was moved or cast.

        Autocast is a cast, too: where it is on, products have its dtype.

        Raises:
            ConfigError: `backend` asks for what cannot work here.
        """
        weight = self.lm_head.weight
        place = (weight.device, weight.dtype, products_in(weight))
        if place not in self._rows:
            self._rows[place] = choose(self._backend, self.config, *place)
        return self._rows[place]

    @property
    def decoder(self) -> str:
        """Whose kernels decode it: "cpu", "triton", or "" where only `step_` does."""
        return self.ops.decoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def zero_state(self, batch: int) -> State:
        """The state of `batch` sequences before any token."""
        return State.zeros(self.config, batch, device=self.device, dtype=self.dtype)

    def hidden(
        self, tokens: Tensor, state: State | None = None, *, layout: Layout | None = None
    ) -> tuple[Tensor, State]:
        """The last hidden layer, normed: (b, l, d), and the state after each row's last token.

        Arguments and errors as for `forward`.
        """
        if layout is None:
            layout = Layout.whole(*tokens.shape)
        layout.check(tokens)
        conv = ssm = None
        if state is not None:
            conv, ssm, layout = state.conv, state.ssm, layout.continuing(state.position)
        normed, conv, ssm = self.backbone(tokens, conv, ssm, layout, self.ops)
        return normed, State(conv, ssm, layout.next_position().to(tokens.device))

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) float32 of hidden states (..., d)."""
        return self.ops.project(self.lm_head, hidden).float()

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        layout: Layout | None = None,
        logits_to_keep: int = 0,
    ) -> LMOutput:
        """Read any number of tokens, from any state, cut anywhere.

        Args:
            tokens: (b, l) token ids, l >= 1.
            state: the state before each row's first token; None starts from nothing. Not modified.
            layout: the documents of packed rows; None: one a row. Where one begins, state and
                convolution start afresh. `state` belongs to each row's first document.
            logits_to_keep: compute logits for this many last positions only; 0 means all.

        Returns:
            `LMOutput(logits, state)`; the state is that of each row's last document.

        Raises:
            DataError: `layout` or `state` describes other rows than `tokens`.
            ConfigError: the backend cannot work here.
        """
        one = tokens.shape[1] == 1 and not torch.is_grad_enabled()
        if one and self.decoder != "cpu":  # those kernels keep to the grid of a longer text
            after = self.zero_state(tokens.shape[0]) if state is None else _copy(state)
            return LMOutput(self.step_(tokens[:, 0], after)[:, None], after)
        hidden, after = self.hidden(tokens, state, layout=layout)
        return LMOutput(self.head(hidden[:, -logits_to_keep:]), after)

    def step_(self, tokens: Tensor, state: State) -> Tensor:
        """Decode: read one token a row and overwrite `state` with the state after it.

        Args:
            tokens: (b,) token ids.
            state: the states of b sequences, overwritten.

        Returns:
            logits (b, vocab_size) float32.
        """
        ops = self.ops
        residual = self.backbone.embeddings(tokens).float()
        for i, block in enumerate(self.blocks):
            residual = block.step_(residual, state.conv[i], state.ssm[i], ops)
        state.position.add_(1)
        return self.head(self.backbone.norm_f(residual))

    def save(
        self,
        folder: str | Path,
        tokenizer: FolderTokenizer,
        *,
        weights: Mapping[str, Tensor] | None = None,
        extra: Mapping[str, Any] | None = None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """Write a folder that `statewise.load` and `transformers` read; whole or not at all.

        Args:
            folder: where the checkpoint shall be; must not exist yet, or be an empty folder.
            tokenizer: written beside the weights, which have the dtypes that they have.
            weights: whole tensors by the names of `named_parameters`, where the model itself holds
                pieces of them; None: its own.
            extra: further entries for `config.json`, JSON values.
            max_shard_bytes: weights above this are split into several files with an index.

        Raises:
            CheckpointError: something is there already, the tokenizer has more entries than the
                model, `extra` takes a name that the model uses, or the disk refused. Nothing is
                left behind.
        """
        write_checkpoint(
            self.config,
            dict(self.state_dict() if weights is None else weights),
            tokenizer,
            Path(folder).absolute(),
            extra=extra,
            max_shard_bytes=max_shard_bytes,
        )


def _copy(state: State) -> State:
    return State(state.conv.clone(), state.ssm.clone(), state.position.clone())

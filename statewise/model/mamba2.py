"""The Mamba-2 language model. Parameter names and layouts are upstream's, so weights load by name.

Dao and Gu 2024 (arXiv 2405.21060), section 7; `mamba_ssm`'s Mamba2 block is the reference where
the paper is silent. b rows, l tokens, d d_model, h heads, p headdim, g groups, n d_state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from statewise.errors import ConfigError
from statewise.model.config import Mamba2Config
from statewise.model.conv import causal_conv_silu_step
from statewise.model.documents import Documents
from statewise.model.norm import GatedRMSNorm, RMSNorm
from statewise.model.ops import DEFINITION, Backend, Ops, choose
from statewise.model.ssd import ChunkTable
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
        self.norm = GatedRMSNorm(c.d_inner, c.ngroups, c.norm_eps)
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
            found = state_dict.get(prefix + name)
            if found is not None and found.dtype.itemsize < 4:
                state_dict[prefix + name] = found.float()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _exact(self) -> dict[str, nn.Parameter]:
        return {"dt_bias": self.dt_bias, "A_log": self.A_log, "D": self.D}

    def forward(
        self,
        u: Tensor,
        conv: Tensor,
        ssm: Tensor,
        table: ChunkTable,
        seq_idx: Tensor | None,
        ops: Ops = DEFINITION,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix (b, l, d); takes and returns the layer's conv window and recurrent state."""
        c = self.config
        z, xBC, dt_raw = self._split(self.in_proj(u))
        before = conv.transpose(1, 2).to(xBC.dtype)
        last = _window(before, xBC, seq_idx).transpose(1, 2)
        xBC = ops.conv(xBC, before, self.conv1d.weight[:, 0], self.conv1d.bias, seq_idx=seq_idx)
        x, B, C = xBC.split([c.d_inner, c.ngroups * c.d_state, c.ngroups * c.d_state], dim=-1)
        x = x.unflatten(-1, (c.nheads, c.headdim))
        with torch.autocast(u.device.type, enabled=False):  # the scan stays float32
            y, ssm = ops.scan(
                x,
                self._dt(dt_raw),
                self._A(),
                B.unflatten(-1, (c.ngroups, c.d_state)),
                C.unflatten(-1, (c.ngroups, c.d_state)),
                chunk_size=table.valid.shape[1],
                state=ssm,
                table=table,
            )
        n = self.norm
        y = ops.norm(y, x, self.D, z, n.weight, groups=n.ngroups, eps=n.eps)
        return self.out_proj(y), last, ssm

    def step_(self, u: Tensor, conv: Tensor, ssm: Tensor, ops: Ops = DEFINITION) -> Tensor:
        """Mix one token a row, (b, d); overwrites the layer's conv window and recurrent state."""
        c = self.config
        z, xBC, dt_raw = self._split(self.in_proj(u))
        xBC = causal_conv_silu_step(xBC, conv, self.conv1d.weight[:, 0], self.conv1d.bias)
        x, B, C = xBC.split([c.d_inner, c.ngroups * c.d_state, c.ngroups * c.d_state], dim=-1)
        x = x.unflatten(-1, (c.nheads, c.headdim))
        B, C = (t.unflatten(-1, (c.ngroups, c.d_state)) for t in (B, C))
        with torch.autocast(u.device.type, enabled=False):  # as in forward
            y = ops.step(ssm, x, self._dt(dt_raw), self._A(), B, C)
        n = self.norm
        out: Tensor = self.out_proj(
            ops.norm(y, x, self.D, z, n.weight, groups=n.ngroups, eps=n.eps)
        )
        return out

    def _split(self, zxbcdt: Tensor) -> tuple[Tensor, ...]:
        c = self.config
        return zxbcdt.split([c.d_inner, c.conv_dim, c.nheads], dim=-1)

    def _A(self) -> Tensor:
        return -torch.exp(self.A_log.float())

    def _dt(self, dt_raw: Tensor) -> Tensor:
        c = self.config
        dt = F.softplus(dt_raw.float() + self.dt_bias.float())
        if c.dt_limit_low > 0 or c.dt_limit_high > 0:
            dt = dt.clamp(c.dt_limit_low, c.dt_limit_high or None)
        return dt


def _window(before: Tensor, xBC: Tensor, seq_idx: Tensor | None) -> Tensor:
    """(b, k, m) the last k inputs of each row's last document; zeros where it is shorter."""
    k = before.shape[1]
    window = torch.cat([before, xBC[:, -k:]], dim=1)[:, -k:]
    if seq_idx is None:
        return window
    first = seq_idx[:, :1].expand(-1, k)
    same = torch.cat([first, seq_idx[:, -k:]], dim=1)[:, -k:] == seq_idx[:, -1:]
    same = same.long().flip(1).cumprod(1).flip(1)  # a number met earlier may be another document's
    return window.masked_fill(same[..., None] == 0, 0.0)  # not times 0: a neighbour may be infinite


class Block(nn.Module):
    """Pre-norm residual block; the residual stream is float32."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.mixer = Mamba2Mixer(config)


class Backbone(nn.Module):
    """Embedding, blocks and final norm."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)


class Mamba2LM(nn.Module):
    """A language model of Mamba-2 layers only.

    One `forward` serves training, prefill and decoding; `step_` is its fast path for one token a
    row. A fresh model is initialised as `mamba_ssm` does.

    Args:
        config: the sizes.

    Attributes:
        backend: what computes the inside of the mixers. "cpu": the compiled kernels of
            `statewise.model.cpu`; "triton": those of `statewise.model.triton`, on a GPU;
            "mamba_ssm", "fla": the scan of those packages, on a GPU; "torch": the definition, on
            any device; "auto": the CPU's kernels or Triton's where they can work, else the
            definition. All agree within `docs/numerics.md`.
    """

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        self.backend: Backend = "auto"
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
        for block in self._blocks():
            block.mixer.reset_parameters()

    def block(self, i: int) -> Block:
        """Block number i."""
        return self._blocks()[i]

    def _blocks(self) -> list[Block]:
        return list(self.backbone.layers)  # type: ignore[arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the large weights."""
        return self.lm_head.weight.dtype

    def compiled(self, device: torch.device) -> bool:
        """Whether the compiled kernels are used for tensors on `device`.

        Raises:
            ConfigError: `backend` asks for them where they cannot work; the message says why.
        """
        if self.backend not in ("auto", "cpu"):
            return False
        c = self.config
        reason = ""
        if device.type != "cpu":
            reason = f"the tensors are on {device.type}"
        elif self.dtype not in (torch.float32, torch.bfloat16):
            reason = f"the weights are {self.dtype}"
        for name in ("d_model", "headdim", "d_state"):
            if getattr(c, name) % 16:
                reason = f"{name} is {getattr(c, name)}, not a multiple of 16"
        if reason and self.backend == "cpu":
            raise ConfigError(f"backend: 'cpu' has no kernels here: {reason}; use 'auto'")
        return not reason

    def ops(self, device: torch.device) -> Ops:
        """What computes the inside of the mixers, where the CPU's kernels do not.

        Raises:
            ConfigError: `backend` asks for what cannot work here.
        """
        c = self.config
        return choose(self.backend, device, self._computed_in(device), (c.headdim, c.d_state))

    def _computed_in(self, device: torch.device) -> torch.dtype:
        """The dtype of the large weights as products take them."""
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.lm_head.weight.device

    def zero_state(self, batch: int) -> State:
        """The state of `batch` sequences before any token."""
        return State.zeros(self.config, batch, device=self.device, dtype=self.dtype)

    def hidden(
        self, tokens: Tensor, state: State | None = None, *, seq_idx: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """The last hidden layer, normed: (b, l, d), and the state after each row's last token.

        Arguments as for `forward`.
        """
        b, l = tokens.shape
        documents = Documents.of(b, l, seq_idx, None if state is None else state.position)
        read = self._read_compiled if self.compiled(tokens.device) else self._read_plain
        normed, convs, ssms = read(tokens, state, seq_idx, documents)
        position = documents.after().to(tokens.device)
        return normed, State(torch.stack(convs), torch.stack(ssms), position)

    def _read_plain(
        self, tokens: Tensor, state: State | None, seq_idx: Tensor | None, documents: Documents
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """By one op after the other: the definition's, or those of `backend`."""
        ops = self.ops(tokens.device)
        chunk_size = ops.chunk_size or self.config.chunk_size
        table = ChunkTable.build(documents, chunk_size).to(tokens.device)
        carried = self.zero_state(tokens.shape[0]) if state is None else state
        residual = self.backbone.embeddings(tokens).float()
        convs, ssms = [], []
        for i, block in enumerate(self._blocks()):
            mixed, conv, ssm = block.mixer(
                block.norm(residual), carried.conv[i], carried.ssm[i], table, seq_idx, ops
            )
            residual = residual + mixed.float()
            convs.append(conv)
            ssms.append(ssm)
        return self.backbone.norm_f(residual), convs, ssms

    def _read_compiled(
        self, tokens: Tensor, state: State | None, seq_idx: Tensor | None, documents: Documents
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The same by the CPU's kernels: between two projections nothing is laid out in memory."""
        from statewise.model.cpu import add_norm, linear, mix  # compiles; not all runs need it

        c = self.config
        dtype = self._computed_in(tokens.device)
        residual = self.backbone.embeddings(tokens).float()
        mixed: Tensor | None = None
        convs, ssms = [], []
        for i, block in enumerate(self._blocks()):
            m = block.mixer
            residual, u = add_norm(residual, mixed, block.norm.weight, c.norm_eps, dtype)
            zxbcdt = linear(u, m.in_proj.weight, m.in_proj.bias)
            xBC = zxbcdt[..., c.d_inner : c.d_inner + c.conv_dim]
            if state is None:
                before = ssm = None
                window = xBC.new_zeros(tokens.shape[0], c.d_conv - 1, c.conv_dim)
            else:
                before, ssm = state.conv[i].transpose(1, 2), state.ssm[i]
                window = before.to(xBC.dtype)
            convs.append(_window(window, xBC, seq_idx).transpose(1, 2))
            y, ssm = mix(
                zxbcdt,
                before,
                ssm,
                m.conv1d.weight[:, 0],
                m.conv1d.bias,
                m.dt_bias,
                m.A_log,
                m.D,
                m.norm.weight,
                config=c,
                documents=documents,
            )
            ssms.append(ssm)
            mixed = linear(y, m.out_proj.weight, m.out_proj.bias)
        _, normed = add_norm(residual, mixed, self.backbone.norm_f.weight, c.norm_eps, dtype)
        return normed, convs, ssms

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) float32 of hidden states (..., d)."""
        if self.compiled(hidden.device):
            from statewise.model.cpu import linear

            return linear(hidden, self.lm_head.weight).float()
        logits: Tensor = self.lm_head(hidden)
        return logits.float()

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        *,
        seq_idx: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> LMOutput:
        """Read any number of tokens, from any state, cut anywhere.

        Args:
            tokens: (b, l) token ids, l >= 1.
            state: the state before each row's first token; None starts from nothing. Not modified.
            seq_idx: (b, l) document number of each token of packed rows. Where it changes, state
                and convolution start afresh. `state` belongs to each row's first document.
            logits_to_keep: compute logits for this many last positions only; 0 means all.

        Returns:
            `LMOutput(logits, state)`; the state is that of each row's last document.
        """
        one = tokens.shape[1] == 1 and not torch.is_grad_enabled()
        if one and not self.compiled(tokens.device):  # kernels keep to the grid of a longer text
            after = self.zero_state(tokens.shape[0]) if state is None else _copy(state)
            return LMOutput(self.step_(tokens[:, 0], after)[:, None], after)
        hidden, after = self.hidden(tokens, state, seq_idx=seq_idx)
        return LMOutput(self.head(hidden[:, -logits_to_keep:]), after)

    def step_(self, tokens: Tensor, state: State) -> Tensor:
        """Decode: read one token a row and overwrite `state` with the state after it.

        Args:
            tokens: (b,) token ids.
            state: the states of b sequences, overwritten.

        Returns:
            logits (b, vocab_size) float32.
        """
        ops = self.ops(tokens.device)
        residual = self.backbone.embeddings(tokens).float()
        for i, block in enumerate(self._blocks()):
            mixed = block.mixer.step_(block.norm(residual), state.conv[i], state.ssm[i], ops)
            residual = residual + mixed.float()
        state.position.add_(1)
        return self.head(self.backbone.norm_f(residual))


def _copy(state: State) -> State:
    return State(state.conv.clone(), state.ssm.clone(), state.position.clone())

"""The Transformer that the claims are measured against: Qwen2 at the same number of parameters.

The weights, their names and their first values are `transformers`' Qwen2 (RMS norm, rotary
positions, grouped-query attention, SwiGLU), built from a configuration; nothing is downloaded. The
forward pass is written out here, so that the comparison is fair to it, and held to `transformers`'
own in the tests:

* Whatever concerns single tokens is done once for a whole packed row; attention alone runs document
  by document, in groups of like length. That is exactly block-diagonal causal attention with
  positions that restart, without computing the blocks that a mask would throw away.
* Decoding runs over a preallocated KV cache, written in place; `transformers`' own cache is copied
  at every token.
* Products of weights are computed in the weights' dtype, or autocast's; all between them (residual
  stream, norms, rotation, attention, the gate's SiLU) is float32, as in the other model. On a GPU
  under autocast the factors of attention's products are bfloat16, as those of its kernels are.

With a sliding window (`with_window`) a sequence's keys and values are a ring of constant size: a
third opponent, a Transformer at the other model's memory.

b rows, l tokens, d hidden size, h query heads, k key-value heads, p head size, c cache places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from statewise.engine import Engine
from statewise.errors import CheckpointError, ConfigError
from statewise.model.formats.write import appearing
from statewise.model.language_model import FolderTokenizer
from statewise.model.layout import Layout
from statewise.records import Completion, write_json
from statewise.sampler import Prompt, SamplingParams
from statewise.text import Tokenizer

COUNT_TOLERANCE = 0.01  # the Transformer has up to this share more parameters, never fewer
MLP_RATIO = (2.5, 4.0)  # sane widths of the MLP over the hidden size
QUERY_GROUP = 7  # query heads that share a key-value head, as in Qwen2.5-7B
HEAD_DIMS = (16, 24, 32, 40, 48, 64, 80, 96, 112, 128)  # whole vectors of any machine
# Qwen2's own scale of fresh weights is made for widths of a thousand and more and starves a small
# model: at width 112 it had learned after 200 steps of sums what sqrt(2 / 5d) (Nguyen and Salazar
# 2019, arXiv:1910.05895) had after 80. The larger of the two is taken.
SMALLEST_INIT = 0.02
CACHE_PLACES = 256  # a growing cache is enlarged to a multiple of this, and at least doubled


def match_config(
    target_params: int,
    *,
    vocab_size: int,
    tie_embeddings: bool,
    n_layer: int,
    group: int = QUERY_GROUP,
    max_length: int = 32_768,
) -> Qwen2Config:
    """The shape of a Qwen2 with as many parameters as another model, or up to 1 % more.

    Of all shapes that match, it takes the one with the sanest proportions: a depth near `n_layer`,
    an MLP about three times as wide as the residual stream, `group` query heads to one key-value
    head, and heads of 32 channels in small models, up to 128 in large ones.

    Args:
        target_params: parameters of the other model, a tied head counted once.
        vocab_size: the other model's vocabulary.
        tie_embeddings: whether the head shares the embedding's weight.
        n_layer: the depth that is wanted.
        group: query heads that share a key-value head; 1 is multi-head attention.
        max_length: longest sequence that the saved configuration declares.

    Returns:
        The configuration; `num_params(config)` says its exact count.

    Raises:
        ConfigError: no shape matches; the target is too small for its vocabulary.
    """
    best: tuple[float, dict[str, int]] | None = None
    embeddings = vocab_size * (1 if tie_embeddings else 2)
    # All queries on one key-value head, where a group of that size would be too wide.
    heads_of = [(n, n) for n in range(1, group)] + [(n * group, group) for n in range(1, 33)]
    for layers in range(max(1, math.ceil(n_layer / 2)), math.ceil(n_layer * 1.5) + 1):
        for heads, shared in heads_of:
            for head_dim in HEAD_DIMS:
                width = heads * head_dim
                rest = target_params - (embeddings + 1) * width
                rest -= layers * _attention_params(width, heads // shared * head_dim)
                mlp = _mlp_width(rest, 3 * width * layers, target_params)
                if mlp is None:
                    continue
                cost = (
                    math.log(mlp / width / 3.0) ** 2
                    + math.log(layers / n_layer) ** 2
                    + 0.1 * math.log(head_dim / min(128, max(32, width / 14))) ** 2
                    + (0 if MLP_RATIO[0] <= mlp / width <= MLP_RATIO[1] else 1)
                    + abs(math.log(shared / group))
                )
                if best is None or cost < best[0]:
                    shape = {
                        "hidden_size": width,
                        "num_hidden_layers": layers,
                        "num_attention_heads": heads,
                        "num_key_value_heads": heads // shared,
                        "intermediate_size": mlp,
                    }
                    best = cost, shape
    if best is None:
        raise ConfigError(
            f"transformer: no Qwen2 with a vocabulary of {vocab_size} has {target_params} "
            "parameters; use a larger model or a smaller vocabulary"
        )
    return Qwen2Config(
        vocab_size=vocab_size,
        tie_word_embeddings=tie_embeddings,
        max_position_embeddings=max_length,
        initializer_range=max(SMALLEST_INIT, math.sqrt(0.4 / best[1]["hidden_size"])),
        **best[1],
    )


def shapes(
    target_params: int, *, vocab_size: int, tie_embeddings: bool, n_layer: int
) -> dict[str, Qwen2Config]:
    """Shapes of one size that a fair comparison tries before it takes the best of them.

    "multi-head" has a key-value head for each query head, at the other model's depth; "grouped-2"
    one for two; "deep" and "wide" are multi-head at one and a half and at half of the depth;
    "grouped-7" shares as Qwen2.5-7B does. Arguments and errors are those of `match_config`.

    Returns:
        By name, in this order. In the smallest models two may be the same.
    """
    found = {}
    for name, depth, group in (
        ("multi-head", n_layer, 1),
        ("grouped-2", n_layer, 2),
        ("deep", math.ceil(n_layer * 1.5), 1),
        ("wide", max(1, n_layer // 2), 1),
        ("grouped-7", n_layer, QUERY_GROUP),
    ):
        found[name] = match_config(
            target_params,
            vocab_size=vocab_size,
            tie_embeddings=tie_embeddings,
            n_layer=depth,
            group=group,
        )
    return found


def with_window(config: Qwen2Config, window: int) -> Qwen2Config:
    """The same shape where a token sees `window` tokens at most, itself included, in every layer.

    The keys and values of a sequence then take a constant memory: `window` places.

    Raises:
        ConfigError: `window` is below 1.
    """
    if window < 1:
        raise ConfigError(f"transformer: a window must be at least 1 token, found {window}")
    changed = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    kept = {k: v for k, v in config.to_dict().items() if k != "layer_types"}
    return Qwen2Config.from_dict({**kept, **changed})


def _attention_params(width: int, kv_width: int) -> int:
    """Parameters of a layer without its MLP: q and o, k and v, their biases, two norms."""
    return 2 * width * width + width + 2 * (width * kv_width + kv_width) + 2 * width


def _mlp_width(rest: int, each: int, target: int) -> int | None:
    """The roundest MLP width that uses up `rest` parameters at `each` a channel; None if none."""
    if rest <= 0:
        return None
    for step in (64, 32, 16, 8, 4, 2, 1):
        width = math.ceil(rest / (each * step)) * step
        if width * each - rest <= COUNT_TOLERANCE * target:
            return width
    return None


def num_params(config: Qwen2Config) -> int:
    """Parameters of a Qwen2 of this shape, a tied head counted once."""
    c = config
    kv_width = c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
    layer = _attention_params(c.hidden_size, kv_width) + 3 * c.hidden_size * c.intermediate_size
    embeddings = c.vocab_size * c.hidden_size * (1 if c.tie_word_embeddings else 2)
    total: int = embeddings + c.num_hidden_layers * layer + c.hidden_size
    return total


def kv_cache_bytes(config: Qwen2Config, length: int, bytes_per_value: int = 4) -> int:
    """Bytes of the keys and values of one sequence of `length` tokens, over all layers."""
    c = config
    kv_width = c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
    places = length if c.sliding_window is None else min(length, c.sliding_window)
    total: int = 2 * c.num_hidden_layers * kv_width * places * bytes_per_value
    return total


def train_flops_per_token(config: Qwen2Config, length: float) -> float:
    """Floating-point operations of training on one token: matrix products and attention.

    Twice the forward pass for the backward pass, as in 6 N (Kaplan et al. 2020, arXiv:2001.08361),
    with N the weights that take part in a product: without the embedding's look-up, with the head.
    Attention is added for the tokens that are seen, half of them on average, not for those that
    are masked. `Mamba2Config.train_flops_per_token` counts the other model alike.

    Args:
        config: the shape.
        length: tokens of the document, where all are equally long. Of documents of different
            lengths, sum(length^2) / sum(length): long ones have more tokens, and each sees more.
    """
    c = config
    # num_params counts biases and norms too: thousandths of it, and not of a product.
    kv_width = c.num_key_value_heads * (c.hidden_size // c.num_attention_heads)
    layer = 2 * c.hidden_size * (c.hidden_size + kv_width) + 3 * c.hidden_size * c.intermediate_size
    products = c.num_hidden_layers * layer + c.hidden_size * c.vocab_size
    seen = (length + 1) / 2
    if c.sliding_window is not None and length > c.sliding_window:
        w = c.sliding_window
        seen = (w * (w + 1) / 2 + (length - w) * w) / length
    attention = 2 * c.num_hidden_layers * c.hidden_size * seen  # scores, and sums of values
    return 3 * 2 * (products + attention)


@dataclass(slots=True)
class KVCache:
    """The keys and values of `batch` running sequences, each of its own length.

    The token at position i lies at place i; in a window at i modulo the window, over the token
    that it can no longer see, so that memory is constant.

    Attributes:
        keys: (n_layer, b, k, c, p), rotated to their positions.
        values: (n_layer, b, k, c, p).
        lengths: (b,) int64 on the CPU, the tokens read.
        window: most places that a sequence takes; None: one for each token.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    window: int | None = None

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Places a sequence."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of all places, used or not."""
        return self.keys.nbytes + self.values.nbytes

    def places(self, positions: Tensor) -> Tensor:
        """Where the tokens at these positions lie."""
        return positions if self.window is None else positions % self.window

    def positions(self, length: int) -> Tensor:
        """(used,) int64: which token lies at each place of a sequence of `length` tokens."""
        used = torch.arange(length if self.window is None else min(length, self.window))
        return used if self.window is None else length - 1 - (length - 1 - used) % self.window

    def reserve(self, tokens: int) -> None:
        """Make room for sequences of so many tokens; at least doubles, so that copies are few."""
        limit = self.window or tokens
        if min(tokens, limit) <= self.capacity:
            return
        wanted = math.ceil(max(tokens, 2 * self.capacity) / CACHE_PLACES) * CACHE_PLACES
        more = (wanted if self.window is None else min(wanted, self.window)) - self.capacity
        self.keys = F.pad(self.keys, (0, 0, 0, more))
        self.values = F.pad(self.values, (0, 0, 0, more))

    def write_(self, slots: Tensor, rows: KVCache) -> None:
        """Overwrite the sequences at `slots` (j,) with the j sequences of `rows` (or its one)."""
        longest = int(rows.lengths.max())
        self.reserve(longest)
        used = min(longest, rows.capacity)
        self.keys[:, slots, :, :used] = rows.keys[:, :, :, :used]
        self.values[:, slots, :, :used] = rows.values[:, :, :, :used]
        self.lengths[slots.cpu()] = rows.lengths


class TransformerOutput(NamedTuple):
    """`logits` (b, l, vocab_size) float32, and the cache after them where one was kept."""

    logits: Tensor
    state: KVCache | None = None


class TransformerLM(nn.Module):
    """Qwen2 as a `LanguageModel`, so that the same loop trains it and decodes with it.

    Args:
        config: the shape, from `match_config`.
    """

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.qwen2 = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa")

    @property
    def num_params(self) -> int:
        """Parameters, a tied head counted once."""
        return sum(p.numel() for p in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype: torch.dtype = self.qwen2.lm_head.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.qwen2.lm_head.weight.device
        return device

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        size: int = self.config.vocab_size
        return size

    @property
    def decoder(self) -> str:
        """No kernels of ours decode it: ""."""
        return ""

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """None: its layers' parts are called one by one, so it is sharded as a whole."""
        return ()

    @property
    def window(self) -> int | None:
        """Tokens that a token sees, itself included; None: all before it."""
        window: int | None = self.config.sliding_window
        return window

    def hidden(
        self, tokens: Tensor, state: KVCache | None = None, *, layout: Layout | None = None
    ) -> tuple[Tensor, KVCache | None]:
        """The last hidden layer, normed, and, where no gradients are wanted, the cache after it.

        Args:
            tokens: (b, l) token ids.
            state: b sequences of equal length that the tokens continue. Not modified.
            layout: the documents of packed rows: each sees itself only, and its positions start at
                0. Not together with a cache, and none is returned.

        Returns:
            hidden states (b, l, d) float32, and the cache; None while gradients are on.

        Raises:
            DataError: `layout` describes other rows than `tokens`.
        """
        if layout is None and not torch.is_grad_enabled():
            return self._cached(tokens, state)
        assert state is None, "packed rows and training start from nothing"
        layout = layout or Layout.whole(*tokens.shape)
        layout.check(tokens)
        documents = layout.derived(_Documents.of, tokens.device, self.window)
        positions = layout.ages(tokens.device).flatten()
        hidden = self._blocks(tokens.flatten(), positions, lambda _, *qkv: documents.attend(*qkv))
        return hidden.view(*tokens.shape, -1), None

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) float32 of hidden states (..., d)."""
        return _product(hidden, self.qwen2.lm_head)

    def forward(
        self,
        tokens: Tensor,
        state: KVCache | None = None,
        *,
        layout: Layout | None = None,
        logits_to_keep: int = 0,
    ) -> TransformerOutput:
        """Read tokens and, where no gradients are wanted, keep what decoding needs.

        Args:
            tokens: (b, l) token ids.
            state: as for `hidden`.
            layout: as for `hidden`.
            logits_to_keep: compute logits for this many last positions only; 0 means all.

        Returns:
            `TransformerOutput(logits, state)`; `state` is None while gradients are on.
        """
        hidden, after = self.hidden(tokens, state, layout=layout)
        return TransformerOutput(self.head(hidden[:, -logits_to_keep:]), after)

    def _cached(self, tokens: Tensor, state: KVCache | None) -> tuple[Tensor, KVCache]:
        """Read (b, l) tokens behind what the cache holds; (b, l, d), and the cache after them."""
        b, l = tokens.shape
        before = self.zero_state(b, places=0) if state is None else state
        length = int(before.lengths[0])
        assert bool((before.lengths == length).all()), "prefill needs rows of equal length"
        positions = torch.arange(length, length + l, device=tokens.device)
        known = before.positions(length).to(tokens.device)
        mask = _mask(positions, torch.cat([known, positions]), self.window)
        after = self.zero_state(b, places=length + l)
        after.write_(torch.arange(b), before)
        after.lengths += l
        # Of a window the last places win; all of them are there before one is written over.
        kept = positions[-after.capacity :]

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.unflatten(0, (b, l)).transpose(1, 2) for x in (q, k, v))
            after.keys[i, :, :, after.places(kept)] = k[:, :, -len(kept) :].to(self.dtype)
            after.values[i, :, :, after.places(kept)] = v[:, :, -len(kept) :].to(self.dtype)
            keys = torch.cat([before.keys[i, :, :, : len(known)].float(), k], dim=2)
            values = torch.cat([before.values[i, :, :, : len(known)].float(), v], dim=2)
            return _attend(q, keys, values, mask).transpose(1, 2).flatten(0, 1)

        hidden = self._blocks(tokens.flatten(), positions.repeat(b), attend)
        return hidden.view(b, l, -1), after

    def zero_state(self, batch: int, places: int = CACHE_PLACES) -> KVCache:
        """The cache of `batch` sequences before any token, with room for `places` each.

        A window's cache never has more places than the window.
        """
        c = self.config
        if self.window is not None:
            places = min(places, self.window)
        head_dim = c.hidden_size // c.num_attention_heads
        shape = (c.num_hidden_layers, batch, c.num_key_value_heads, places, head_dim)
        keys = torch.zeros(shape, device=self.device, dtype=self.dtype)
        lengths = torch.zeros(batch, dtype=torch.int64)
        return KVCache(keys, torch.zeros_like(keys), lengths, self.window)

    @torch.no_grad()
    def step_(self, tokens: Tensor, state: KVCache) -> Tensor:
        """Decode: read one token a row, each at the end of its own sequence.

        Args:
            tokens: (b,) token ids.
            state: the caches of b sequences; the tokens' keys and values are appended, in a window
                over the oldest.

        Returns:
            logits (b, vocab_size) float32.
        """
        state.reserve(int(state.lengths.max()) + 1)
        places = _Places.of(state, tokens.device)
        rows = len(tokens)

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = places.append(state.keys[i], k), places.append(state.values[i], v)
            # The query heads of a group stand where the query's tokens would: nothing is repeated.
            grouped = q.to(keys.dtype).view(rows, k.shape[1], -1, q.shape[-1])
            mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=places.mask)
            return mixed.flatten(1, 2)

        hidden = self._blocks(tokens, state.lengths.to(tokens.device), attend)
        state.lengths += 1
        return self.head(hidden)

    def _blocks(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Tokens (n,) at their positions (n,) to the last hidden layer, normed (n, d) float32.

        All of a block but its attention is a matter of single tokens, and done here for all of
        them at once.

        Args:
            tokens: ids.
            positions: of each in its own document.
            attend: takes the layer's number, rotated queries (n, h, p), rotated keys (n, k, p) and
                values (n, k, p), all float32; returns what the queries read, (n, h, p).
        """
        model = self.qwen2.model
        x = model.embed_tokens(tokens).float()
        cos, sin = model.rotary_emb(x, positions[None])
        cos, sin = cos[0, :, None], sin[0, :, None]  # (n, 1, p): the same for every head
        head_dim = cos.shape[-1]
        for i, layer in enumerate(model.layers):
            mixer, mlp = layer.self_attn, layer.mlp
            u = _rms_norm(x, layer.input_layernorm)
            q, k, v = (
                _product(u, projection).unflatten(-1, (-1, head_dim))
                for projection in (mixer.q_proj, mixer.k_proj, mixer.v_proj)
            )
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            x = x + _product(attend(i, q, k, v).flatten(1), mixer.o_proj)
            u = _rms_norm(x, layer.post_attention_layernorm)
            gate, up = _product(u, mlp.gate_proj), _product(u, mlp.up_proj)
            x = x + _product(F.silu(gate) * up, mlp.down_proj)
        return _rms_norm(x, model.norm)

    def save(
        self,
        folder: Path,
        tokenizer: FolderTokenizer,
        *,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write a folder as `transformers` names and reads it; it appears whole or not at all.

        Raises:
            CheckpointError: something is there already, or the disk refused. Nothing is left
                behind.
        """
        if weights is None:
            weights = dict(self.named_parameters())  # a tied head once
        named = {
            k.removeprefix("qwen2."): v.detach().cpu().contiguous() for k, v in weights.items()
        }
        described = {
            **self.config.to_dict(),
            "architectures": ["Qwen2ForCausalLM"],
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        with appearing(folder.absolute()) as temporary:
            temporary.mkdir()
            (temporary / "model.safetensors").write_bytes(to_bytes(named, {"format": "pt"}))
            write_json(temporary / "config.json", described)
            tokenizer.save(temporary)

    @classmethod
    def load(cls, folder: Path) -> TransformerLM:
        """Read what `save` wrote.

        Raises:
            CheckpointError: a file is missing or damaged, or holds another architecture.
        """
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / name}: no such file; is this a checkpoint?")
        try:
            settings, _ = Qwen2Config.get_config_dict(folder, local_files_only=True)
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{folder / 'config.json'}: not readable ({e})") from None
        if settings.get("model_type") != "qwen2":
            raise CheckpointError(
                f"{folder / 'config.json'}: model_type is {settings.get('model_type')!r}; the "
                "Transformer baseline reads 'qwen2' only"
            )
        try:
            weights = load_file(folder / "model.safetensors")
        except (SafetensorError, OSError) as e:
            raise CheckpointError(f"{folder / 'model.safetensors'}: damaged ({e})") from None
        try:
            model = cls(Qwen2Config.from_dict(settings))
        except (StrictDataclassError, ValueError, TypeError) as e:
            raise CheckpointError(f"{folder / 'config.json'}: not a Qwen2 shape ({e})") from None
        if model.config.tie_word_embeddings and "model.embed_tokens.weight" in weights:
            weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        try:
            model.qwen2.load_state_dict(weights)
        except RuntimeError as e:
            raise CheckpointError(f"{folder}: weights and config.json disagree: {e}") from None
        return model.to(next(iter(weights.values())).dtype)


class _Places(NamedTuple):
    """Where in the cache one step writes and what it reads.

    `mask` (b, 1, 1, used) is None where all rows are equally long.
    """

    used: int
    rows: Tensor
    columns: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, state: KVCache, device: torch.device) -> _Places:
        longest = int(state.lengths.max())
        used = min(longest + 1, state.capacity)
        rows, lengths = torch.arange(state.batch, device=device), state.lengths.to(device)
        columns = state.places(lengths)
        if int(state.lengths.min()) == longest:
            return cls(used, rows, columns, None)
        # Where a row has filled its window, every place holds something that it sees.
        mask = torch.arange(used, device=device) <= lengths[:, None]
        return cls(used, rows, columns, mask[:, None, None])

    def append(self, memory: Tensor, new: Tensor) -> Tensor:
        """Write `new` (b, k, p) into `memory` (b, k, c, p); returns the places to be read."""
        new = new.to(memory.dtype)
        if self.mask is None:
            memory[:, :, int(self.columns[0])] = new
        else:
            memory[self.rows, :, self.columns] = new
        return memory[:, :, : self.used]


class _Documents(NamedTuple):
    """How packed documents are laid out as rows for attention, in groups of like length.

    Attributes:
        tokens: which token (row * l + column) stands at each place of all groups: a shorter
            document of a group repeats its last token, which none of its own tokens sees.
        shapes: of each group, its documents and the tokens of the longest.
        masks: of each group, what may be seen (longest, longest); None: all that went before.
        places: (b * l,) at which place of all groups each token stands.
    """

    tokens: Tensor
    shapes: list[tuple[int, int]]
    masks: list[Tensor | None]
    places: Tensor

    @classmethod
    def of(cls, layout: Layout, device: torch.device, window: int | None) -> _Documents:
        starts = torch.from_numpy(layout.row * layout.columns + layout.start)
        sizes = torch.from_numpy(layout.length)
        sizes, order = sizes.sort(descending=True, stable=True)
        starts = starts[order]
        groups, shapes, masks = [], [], []
        places = torch.empty(layout.rows * layout.columns, dtype=torch.int64)
        at = offset = 0
        while at < len(sizes):
            longest = int(sizes[at])
            # At most a fifth of a row is padding; fewer, fuller groups were not faster.
            until = at + int((sizes[at:] >= 0.8 * longest).sum())
            within = torch.arange(longest).expand(until - at, longest)
            tokens = starts[at:until, None] + within.minimum(sizes[at:until, None] - 1)
            valid = (within < sizes[at:until, None]).flatten()
            places[tokens.flatten()[valid]] = offset + valid.nonzero()[:, 0]
            groups.append(tokens.flatten())
            shapes.append((until - at, longest))
            every = torch.arange(longest, device=device)
            masks.append(_mask(every, every, window))
            offset += tokens.numel()
            at = until
        return cls(torch.cat(groups).to(device), shapes, masks, places.to(device))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention inside each document; (n, h, p), (n, k, p) twice to (n, h, p)."""
        sizes = [documents * longest for documents, longest in self.shapes]
        laid_out = [x.index_select(0, self.tokens).split(sizes) for x in (q, k, v)]
        mixed = []
        for shape, mask, *group in zip(self.shapes, self.masks, *laid_out, strict=True):
            queries, keys, values = (x.unflatten(0, shape).transpose(1, 2) for x in group)
            mixed.append(_attend(queries, keys, values, mask).transpose(1, 2).flatten(0, 1))
        return torch.cat(mixed).index_select(0, self.places)


def _mask(queries: Tensor, keys: Tensor, window: int | None) -> Tensor | None:
    """What tokens at positions `queries` see of those at `keys`, (queries, keys) bool.

    None is the same positions, and all that went before: the kernels know it without a mask.
    """
    if len(queries) == len(keys) and (window is None or len(keys) <= window):
        return None
    behind = queries[:, None] - keys
    return behind >= 0 if window is None else (behind >= 0) & (behind < window)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Queries (b, h, l, p) over keys and values (b, k, s, p); `mask` as from `_mask`."""
    # On a CPU attention is float32 under autocast too, as the other model's recurrence is; on a
    # GPU the factors of products are bfloat16 in both.
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )


def _product(x: Tensor, layer: Any) -> Tensor:
    """A linear layer in the dtype of its weights, or autocast's; float32 again."""
    return F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias).float()


def _rms_norm(x: Tensor, norm: Any) -> Tensor:
    """Of float32, in float32."""
    return F.rms_norm(x, (x.shape[-1],), norm.weight.float(), norm.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions for (n, heads, p), halves paired as Qwen2 pairs them."""
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-high, low], dim=-1) * sin


class TransformerSampler:
    """A `Sampler` over the Transformer: the same engine, scheduling and draws, with a KV cache.

    So the two models are sampled alike: a prompt is prefilled once for its n samples, rows that
    finish make place for waiting ones, and a sample draws from a stream of its own. Its text does
    not depend on its company, up to rounding in the attention.

    Args:
        model: the weights; it is put into evaluation mode.
        tokenizer: text to ids and back.
        batch: sequences that run at once. Their caches grow with the longest of them.
    """

    def __init__(self, model: TransformerLM, tokenizer: Tokenizer, *, batch: int = 32) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch = batch

    def sample(
        self, prompts: Iterable[Prompt | str], params: SamplingParams
    ) -> Iterator[Completion]:
        """Yield `params.n` completions for every prompt, as they finish; errors are `Engine`'s."""
        # A fresh engine for each call: the cache of an idle row grows until its engine is gone.
        engine = Engine(self.model, self.tokenizer, slots=self.batch)
        yield from engine.sample(prompts, params)

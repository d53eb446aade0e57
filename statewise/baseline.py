"""The Transformer that the claims are measured against: Qwen2 at the same number of parameters.

The weights and the forward pass of training and prefill are `transformers`' Qwen2 (RMS norm,
rotary positions, grouped-query attention, SwiGLU), built from a configuration; nothing is
downloaded. Two things are done here so that the comparison is fair to it:

* Packed documents are unpacked into rows of their own before attention. That is exactly
  block-diagonal causal attention with positions that restart, without computing the blocks that a
  mask would throw away.
* Decoding runs over a preallocated KV cache, written in place; `transformers`' own cache is copied
  at every token.

b rows, l tokens, d hidden size, h query heads, k key-value heads, p head size, c cache places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
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
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

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
    max_length: int = 32_768,
) -> Qwen2Config:
    """The shape of a Qwen2 with as many parameters as another model, or up to 1 % more.

    Of all shapes that match, it takes the one with the sanest proportions: a depth near `n_layer`,
    an MLP about three times as wide as the residual stream, seven query heads to one key-value
    head, and heads of 32 channels in small models, up to 128 in large ones.

    Args:
        target_params: parameters of the other model, a tied head counted once.
        vocab_size: the other model's vocabulary.
        tie_embeddings: whether the head shares the embedding's weight.
        n_layer: the other model's depth.
        max_length: longest sequence that the saved configuration declares.

    Returns:
        The configuration; `num_params(config)` says its exact count.

    Raises:
        ConfigError: no shape matches; the target is too small for its vocabulary.
    """
    best: tuple[float, dict[str, int]] | None = None
    embeddings = vocab_size * (1 if tie_embeddings else 2)
    for layers in range(max(1, math.ceil(n_layer / 2)), math.ceil(n_layer * 1.5) + 1):
        for heads, shared in _HEADS:
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
                    + abs(math.log(shared / QUERY_GROUP))
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


# (query heads, query heads a key-value head): 7:1 where the heads allow it, all to one where not.
_HEADS = tuple((n, n) for n in range(1, QUERY_GROUP)) + tuple(
    (n * QUERY_GROUP, QUERY_GROUP) for n in range(1, 17)
)


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
    total: int = 2 * c.num_hidden_layers * kv_width * length * bytes_per_value
    return total


@dataclass(slots=True)
class KVCache:
    """The keys and values of `batch` running sequences, each of its own length.

    Attributes:
        keys: (n_layer, b, k, c, p), rotated to their positions.
        values: (n_layer, b, k, c, p).
        lengths: (b,) int64 on the CPU, the places in use.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor

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

    def reserve(self, places: int) -> None:
        """Make room for sequences of `places` tokens; at least doubles, so that copies are few."""
        if places <= self.capacity:
            return
        wanted = max(places, 2 * self.capacity)
        more = math.ceil(wanted / CACHE_PLACES) * CACHE_PLACES - self.capacity
        self.keys = F.pad(self.keys, (0, 0, 0, more))
        self.values = F.pad(self.values, (0, 0, 0, more))

    def write_(self, slots: Tensor, rows: KVCache) -> None:
        """Overwrite the sequences at `slots` (j,) with the j sequences of `rows` (or its one)."""
        longest = int(rows.lengths.max())
        self.reserve(longest)
        self.keys[:, slots, :, :longest] = rows.keys[:, :, :, :longest]
        self.values[:, slots, :, :longest] = rows.values[:, :, :, :longest]
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
            hidden states (b, l, d), and the cache; None while gradients are on.

        Raises:
            DataError: `layout` describes other rows than `tokens`.
        """
        if layout is None and not torch.is_grad_enabled():
            return self._cached(tokens, state)
        assert state is None, "packed rows and training start from nothing"
        if layout is None:
            return self._causal(tokens), None
        layout.check(tokens)
        flat = tokens.reshape(-1)
        groups, places = layout.derived(_documents_in_rows, tokens.device)
        rows = [self._causal(flat[g]).flatten(0, 1) for g in groups]
        return torch.cat(rows).index_select(0, places).view(*tokens.shape, -1), None

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab_size) float32 of hidden states (..., d)."""
        logits: Tensor = self.qwen2.lm_head(hidden)
        return logits.float()

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
        past = DynamicCache(config=self.config)
        if state is not None:
            length = int(state.lengths[0])
            assert bool((state.lengths == length).all()), "prefill needs rows of equal length"
            for i in range(self.config.num_hidden_layers):
                keys, values = state.keys[i], state.values[i]
                past.update(keys[:, :, :length], values[:, :, :length], i)
        out = self.qwen2.model(tokens, past_key_values=past, use_cache=True)
        after = KVCache(
            torch.stack([layer.keys for layer in past.layers]),
            torch.stack([layer.values for layer in past.layers]),
            torch.full((tokens.shape[0],), past.get_seq_length()),
        )
        return out.last_hidden_state, after

    def zero_state(self, batch: int, places: int = CACHE_PLACES) -> KVCache:
        """The cache of `batch` sequences before any token, with room for `places` each."""
        c = self.config
        head_dim = c.hidden_size // c.num_attention_heads
        shape = (c.num_hidden_layers, batch, c.num_key_value_heads, places, head_dim)
        keys = torch.zeros(shape, device=self.device, dtype=self.dtype)
        return KVCache(keys, torch.zeros_like(keys), torch.zeros(batch, dtype=torch.int64))

    @torch.no_grad()
    def step_(self, tokens: Tensor, state: KVCache) -> Tensor:
        """Decode: read one token a row, each at the end of its own sequence.

        The blocks are written out here for one token: `transformers`' forward spends more time
        between its operations than in them, and that would be counted against the Transformer.

        Args:
            tokens: (b,) token ids.
            state: the caches of b sequences; the tokens' keys and values are appended.

        Returns:
            logits (b, vocab_size) float32.
        """
        lengths = state.lengths
        longest = int(lengths.max())
        state.reserve(longest + 1)
        places = _Places.of(lengths, longest, tokens.device)
        model = self.qwen2.model
        x: Tensor = model.embed_tokens(tokens)
        cos, sin = model.rotary_emb(x, lengths[:, None].to(tokens.device))
        cos, sin = cos[:, 0, None], sin[:, 0, None]  # (b, 1, p): the same for every head
        for i, layer in enumerate(model.layers):
            attention = layer.self_attn
            u = _rms_norm(x, layer.input_layernorm)
            q = _rotate(attention.q_proj(u).unflatten(-1, (-1, cos.shape[-1])), cos, sin)
            k = _rotate(attention.k_proj(u).unflatten(-1, (-1, cos.shape[-1])), cos, sin)
            v = attention.v_proj(u).unflatten(-1, (-1, cos.shape[-1]))
            keys = places.append(state.keys[i], k)
            values = places.append(state.values[i], v)
            # The query heads of a group stand where the query's tokens would: nothing is repeated.
            grouped = q.unflatten(1, (k.shape[1], -1))
            mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=places.mask)
            x = x + attention.o_proj(mixed.flatten(1))
            u = _rms_norm(x, layer.post_attention_layernorm)
            mlp = layer.mlp
            x = x + mlp.down_proj(F.silu(mlp.gate_proj(u)) * mlp.up_proj(u))
        lengths += 1
        return self.head(_rms_norm(x, model.norm))

    def save(self, folder: Path, tokenizer: FolderTokenizer) -> None:
        """Write a folder as `transformers` names and reads it; it appears whole or not at all.

        Raises:
            CheckpointError: something is there already, or the disk refused. Nothing is left
                behind.
        """
        weights = {k: v.detach().cpu().contiguous() for k, v in self.qwen2.state_dict().items()}
        if self.config.tie_word_embeddings:
            del weights["lm_head.weight"]
        described = {
            **self.config.to_dict(),
            "architectures": ["Qwen2ForCausalLM"],
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        with appearing(folder.absolute()) as temporary:
            temporary.mkdir()
            (temporary / "model.safetensors").write_bytes(to_bytes(weights, {"format": "pt"}))
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

    def _causal(self, tokens: Tensor) -> Tensor:
        """(b, l) -> (b, l, d): plain causal attention over whole rows."""
        # The mask comes as the mapping that the model would build itself: None is "causal, and
        # nothing else", which is the fast kernel.
        mask: Any = {"full_attention": None}
        out = self.qwen2.model(tokens, attention_mask=mask, use_cache=False)
        hidden: Tensor = out.last_hidden_state
        return hidden


class _Places(NamedTuple):
    """Where in the cache one step writes and what it reads.

    `mask` (b, 1, 1, longest + 1) is None where all rows are equally long.
    """

    longest: int
    rows: Tensor
    columns: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, lengths: Tensor, longest: int, device: torch.device) -> _Places:
        rows, columns = torch.arange(len(lengths), device=device), lengths.to(device)
        if int(lengths.min()) == longest:
            return cls(longest, rows, columns, None)
        mask = torch.arange(longest + 1, device=device) <= columns[:, None]
        return cls(longest, rows, columns, mask[:, None, None])

    def append(self, memory: Tensor, new: Tensor) -> Tensor:
        """Write `new` (b, k, p) into `memory` (b, k, c, p); returns the places to be read."""
        if self.mask is None:
            memory[:, :, self.longest] = new
        else:
            memory[self.rows, :, self.columns] = new
        return memory[:, :, : self.longest + 1]


def _documents_in_rows(layout: Layout, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """How to lay packed documents out as rows, longest first, in groups of like length.

    Returns:
        For each group (documents, longest) which token (row * l + column) stands at each place: a
        shorter document repeats its last token, which no other place sees; and (b * l,) at which
        place of all groups each token stands.
    """
    starts = torch.from_numpy(layout.row * layout.columns + layout.start)
    sizes = torch.from_numpy(layout.length)
    sizes, order = sizes.sort(descending=True, stable=True)
    starts = starts[order]
    groups, at = [], 0
    places = torch.empty(layout.rows * layout.columns, dtype=torch.int64)
    offset = 0
    while at < len(sizes):
        longest = int(sizes[at])
        # At most a fifth of a row is padding; fewer, fuller groups were not faster.
        until = at + int((sizes[at:] >= 0.8 * longest).sum())
        within = torch.arange(longest).expand(until - at, longest)
        tokens = starts[at:until, None] + within.minimum(sizes[at:until, None] - 1)
        valid = (within < sizes[at:until, None]).flatten()
        places[tokens.flatten()[valid]] = offset + valid.nonzero()[:, 0]
        groups.append(tokens.to(device))
        offset += tokens.numel()
        at = until
    return groups, places.to(device)


def _rms_norm(x: Tensor, norm: Any) -> Tensor:
    normed = F.rms_norm(x.float(), (x.shape[-1],), eps=norm.variance_epsilon)
    scaled: Tensor = norm.weight * normed.to(x.dtype)
    return scaled


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions for (b, heads, p), halves paired as Qwen2 pairs them."""
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

"""The Transformer by an implementation that its users have: llama.cpp, on the very same weights.

llama-cpp-python (the extra `peers`) is optional, and `missing` says where it cannot be had. The
weights go through a GGUF file of architecture "qwen2" without a vocabulary: token ids in, logits
out. Keys and values have the dtype of the weights, as in torch.
"""

from __future__ import annotations

import ctypes
import importlib.util
import tempfile
import weakref
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from statewise.baseline import TransformerLM
from statewise.errors import RunError
from statewise.model.formats.gguf import KINDS

ARCHITECTURE = "qwen2"
PIECE = 512  # tokens of a prompt that llama.cpp reads at once
PLACES = 256  # a sequence's room in llama.cpp is a multiple of this


def missing(transformer: TransformerLM) -> str:
    """Why llama.cpp cannot decode this model here; "" if it can."""
    if importlib.util.find_spec("llama_cpp") is None:
        return "llama-cpp-python is not installed (pip install 'statewise[peers]')"
    if transformer.device.type != "cpu":
        return f"llama.cpp was built for the CPU, and the models are on {transformer.device}"
    if transformer.dtype not in KINDS:
        return f"llama.cpp has no {str(transformer.dtype).removeprefix('torch.')}"
    return ""


def write_gguf(path: Path, transformer: TransformerLM) -> None:
    """Write a Qwen2 as llama.cpp reads it: matrices in the model's dtype, vectors as float32.

    Args:
        path: the file.
        transformer: the weights, in float32, bfloat16 or float16.
    """
    c, kind = transformer.config, KINDS[transformer.dtype]
    head_dim = c.hidden_size // c.num_attention_heads
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, c.num_hidden_layers)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in transformer.qwen2.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        stored = kind if tensor.dim() == 2 else gguf.GGMLQuantizationType.F32
        dtype = transformer.dtype if tensor.dim() == 2 else torch.float32
        raw = tensor.detach().to(dtype).contiguous().view(torch.uint8).numpy()
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(theirs, raw, raw_shape=raw.shape, raw_dtype=stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


class LlamaCpp:
    """A Transformer in llama.cpp. One prompt is open at a time; `close` when done.

    Args:
        transformer: the weights; they are copied.
        threads: as many as torch uses beside it.

    Raises:
        RunError: llama.cpp does not load it.
    """

    def __init__(self, transformer: TransformerLM, threads: int) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C calls it
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self.version: str = llama_cpp.__version__
        self.vocab_size = transformer.vocab_size
        self._kind = int(KINDS[transformer.dtype])
        self._threads = threads
        self._context: Any = None
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0
        options.use_mmap = False  # the file is gone before the model is
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "transformer.gguf"
            write_gguf(path, transformer)
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise RunError("bench: llama.cpp does not load the Transformer; no figure is reported")

    def close(self) -> None:
        """Give back all memory."""
        self._forget()
        self._lib.llama_model_free(self._model)

    def _forget(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None

    def _open(self, sequences: int, places: int) -> Any:
        """A context with room for `places` tokens in each of so many sequences."""
        self._forget()
        options = self._lib.llama_context_default_params()
        options.n_ctx = sequences * -(-places // PLACES) * PLACES
        options.n_batch = options.n_ubatch = PIECE
        options.n_seq_max = sequences
        options.n_threads = options.n_threads_batch = self._threads
        options.type_k = options.type_v = self._kind
        options.kv_unified = False  # sequences share nothing
        # On a CPU its flash attention was slower at every length from 128 to 8,192 tokens, and it
        # rounds to 16 bits.
        options.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = self._lib.llama_init_from_model(self._model, options)
        if not self._context:
            raise RunError("bench: llama.cpp makes no context; no figure is reported")
        return self._context

    def read(self, prompt: Tensor, most: int, places: int) -> int:
        """Read a prompt (l,) into `most` sequences, with room for `places` tokens in each.

        Returns:
            The prompt's length.
        """
        context = self._open(most, places)
        for begin in range(0, len(prompt), PIECE):
            piece = prompt[begin : begin + PIECE].numpy()
            tokens = _Batch(self._lib, len(piece))
            tokens.positions[:] = np.arange(begin, begin + len(piece))
            tokens.wanted[:] = 0
            tokens.decode(context, piece)
        memory = self._lib.llama_get_memory(context)
        for row in range(1, most):
            self._lib.llama_memory_seq_cp(memory, 0, row, -1, -1)
        return len(prompt)

    def rows(self, read: int, batch: int) -> Rows:
        """The first `batch` of the sequences that have read a prompt of this length."""
        return Rows(self._lib, self._context, batch, read, self.vocab_size)


class Rows:
    """Running sequences in llama.cpp, all equally long; valid until the next prompt is read."""

    def __init__(self, lib: Any, context: Any, batch: int, length: int, vocab_size: int) -> None:
        self._lib, self._context = lib, context
        self._size, self._length = (batch, vocab_size), length
        self._batch = _Batch(lib, batch)
        for row in range(batch):
            self._batch.sequences[row][0] = row
        self.rewind()

    def rewind(self) -> None:
        """Every row is again where its prompt ended."""
        memory = self._lib.llama_get_memory(self._context)
        for row in range(self._size[0]):
            self._lib.llama_memory_seq_rm(memory, row, self._length, -1)
        self._batch.positions[:] = self._length

    def step(self, ids: Tensor) -> Tensor:
        """Read one token a row (b,); logits (b, vocab_size) float32, overwritten by the next."""
        self._batch.decode(self._context, ids.numpy())
        self._batch.positions += 1
        logits = self._lib.llama_get_logits(self._context)
        return torch.from_numpy(np.ctypeslib.as_array(logits, shape=self._size))


class _Batch:
    """llama.cpp's own arrays of n tokens, filled through numpy: Python's loops would be timed."""

    def __init__(self, lib: Any, n: int) -> None:
        self._lib = lib
        self._batch = lib.llama_batch_init(n, 0, 1)
        weakref.finalize(self, lib.llama_batch_free, self._batch)
        self._batch.n_tokens = n
        self._tokens = np.ctypeslib.as_array(self._batch.token, shape=(n,))
        self.positions = np.ctypeslib.as_array(self._batch.pos, shape=(n,))
        self.wanted = np.ctypeslib.as_array(self._batch.logits, shape=(n,))
        self.sequences = self._batch.seq_id
        np.ctypeslib.as_array(self._batch.n_seq_id, shape=(n,))[:] = 1
        for i in range(n):
            self.sequences[i][0] = 0
        self.wanted[:] = 1

    def decode(self, context: Any, tokens: Any) -> None:
        self._tokens[:] = tokens
        if self._lib.llama_decode(context, self._batch) != 0:
            raise RunError("bench: llama.cpp cannot read a batch; no figure is reported")
        self._lib.llama_synchronize(context)

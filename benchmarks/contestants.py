"""Each contestant behind the same few questions; every one lives in a process of its own."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.shapes import random_tokens
from statewise.model import Mamba2Config
from statewise.model.checkpoint import load_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PIECE = 2048
SLOTS = 16  # sequences a contestant has room for
WATCHED = ("in_proj.weight", "conv1d.weight", "dt_bias", "A_log", "D", "out_proj.weight")
COPY_BYTES = 256 * 2**20  # each way; far beyond the last-level caches in reach


def memory(field: str) -> int:
    """Bytes of this process as Linux counts them: VmRSS now resident, VmHWM the most there were."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"the system does not tell {field}")


class Contestant(Protocol):
    """What can be asked of a model in inference.

    logits: (l,) tokens, read at once -> (l, vocabulary) float32.
    stepped: (b, l) tokens, read one at a time for all rows -> (b, l, vocabulary) float32.
    prefill: seconds to read so many tokens from nothing, to the last one's logits and the state.
    decode: seconds of so many steps of b sequences, each continued from the last question's.
    """

    def logits(self, tokens: np.ndarray) -> np.ndarray: ...
    def stepped(self, tokens: np.ndarray) -> np.ndarray: ...
    def prefill(self, tokens: int) -> float: ...
    def decode(self, batch: int, steps: int) -> float: ...


def config_of(folder: Path) -> Mamba2Config:
    """The sizes of the model in a folder."""
    return Mamba2Config(**json.loads((folder / "sizes.json").read_text()))


class Statewise:
    """This project's model; kind "definition" is its plain form, to which all are held."""

    def __init__(self, folder: Path, dtype: str, threads: int, *, plain: bool = False) -> None:
        torch.set_num_threads(threads)
        self.model = load_model(folder, DTYPES["bf16" if dtype == "int8" else dtype]).eval()
        self.model.use("torch" if plain else "auto")
        self._weights: Any = "int8" if dtype == "int8" else "model"
        self._decoder: Any = None
        self._batch = 0

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """As the protocol says."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(tokens)[None]).logits[0].numpy()

    def rows(self, tokens: np.ndarray) -> np.ndarray:
        """Logits of (b, l) texts, each read at once."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(tokens)).logits.numpy()

    def _step(self, tokens: np.ndarray, fresh: bool = False) -> torch.Tensor:
        from statewise.engine.slots.cpu import Decoder

        if self._decoder is None:
            self._decoder = Decoder(self.model, SLOTS, weights=self._weights)
        slots = np.arange(len(tokens))
        if fresh:
            self._decoder.write_(slots, self.model.zero_state(len(tokens)))
        return self._decoder.step_(tokens, slots)

    def stepped(self, tokens: np.ndarray) -> np.ndarray:
        """As the protocol says."""
        steps = range(tokens.shape[1])
        logits = [self._step(tokens[:, i], fresh=i == 0).numpy().copy() for i in steps]
        self._batch = 0
        return np.stack(logits, axis=1)

    def draw(self, batch: int, steps: int) -> np.ndarray:
        """Texts (batch, steps) sampled from the model, at temperature 1."""
        rng = torch.Generator().manual_seed(0)
        tokens = [random_tokens(self.model.config, batch)]
        for i in range(steps - 1):
            chances = self._step(tokens[-1], fresh=i == 0).softmax(-1)
            tokens.append(torch.multinomial(chances, 1, generator=rng)[:, 0].numpy())
        return np.stack(tokens, axis=1)

    def prefill(self, tokens: int) -> float:
        """As the protocol says."""
        text = torch.from_numpy(random_tokens(self.model.config, 1, tokens))
        with torch.inference_mode():
            begun, state = time.perf_counter(), None
            for piece in text.split(PIECE, dim=1):  # as `Engine` reads a prompt
                state = self.model(piece, state, logits_to_keep=1).state
            return time.perf_counter() - begun

    def decode(self, batch: int, steps: int) -> float:
        """As the protocol says."""
        tokens = random_tokens(self.model.config, steps, batch)
        if self._batch != batch:
            self._step(tokens[0], fresh=True)
            for _ in range(7):  # states are written at multiples of eight tokens
                self._step(tokens[0])
            self._batch = batch
        begun = time.perf_counter()
        for i in range(steps):
            self._step(tokens[i])
        return time.perf_counter() - begun

    def decode_rss(self, batch: int, steps: int, samples: int) -> dict[str, list[int]]:
        """Resident bytes at evenly spaced steps of one long decode."""
        tokens = random_tokens(self.model.config, 256, batch)
        series: dict[str, list[int]] = {"steps": [], "bytes": []}
        for i in range(steps):
            self._step(tokens[i % 256], fresh=i == 0)
            if (i + 1) % (steps // samples) == 0:
                series["steps"].append(i + 1)
                series["bytes"].append(memory("VmRSS"))
        self._batch = 0
        return series


class Transformers:
    """`transformers`: `Mamba2ForCausalLM` on the same checkpoint folder."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        from transformers import Mamba2ForCausalLM
        from transformers.utils import logging

        logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self.config = config_of(folder)
        self.model = Mamba2ForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype]).eval()
        self._cache: Any = None
        self._batch = 0

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """As the protocol says."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(tokens)[None]).logits[0].float().numpy()

    def _step(self, tokens: np.ndarray, fresh: bool = False) -> torch.Tensor:
        cache = None if fresh else self._cache
        with torch.inference_mode():
            read = self.model(torch.from_numpy(tokens)[:, None], cache_params=cache, use_cache=True)
        self._cache = read.cache_params
        return read.logits[:, 0].float()

    def stepped(self, tokens: np.ndarray) -> np.ndarray:
        """As the protocol says."""
        self._batch = 0
        steps = range(tokens.shape[1])
        logits = [self._step(tokens[:, i], fresh=i == 0).numpy().copy() for i in steps]
        return np.stack(logits, axis=1)

    def prefill(self, tokens: int) -> float:
        """As the protocol says."""
        text = torch.from_numpy(random_tokens(self.config, 1, tokens))
        with torch.inference_mode():
            begun = time.perf_counter()
            self.model(text, use_cache=True, logits_to_keep=1)
            return time.perf_counter() - begun

    def decode(self, batch: int, steps: int) -> float:
        """As the protocol says."""
        tokens = random_tokens(self.config, steps, batch)
        if self._batch != batch:
            self._step(tokens[0], fresh=True)
            self._batch = batch
        begun = time.perf_counter()
        for i in range(steps):
            self._step(tokens[i])
        return time.perf_counter() - begun


class LlamaCpp:
    """llama.cpp, by llama-cpp-python's plain C interface, on our own GGUF file."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda *_: None)  # kept: C calls it
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self.config = config_of(folder)
        self._threads = threads
        path = str(folder / f"model-{dtype}.gguf").encode()
        options = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(path, options)
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load model-{dtype}.gguf")
        self._context: Any = None
        self._opened = (0, 0)
        self._micro_batch = 0
        self._batch = self._position = 0

    def _open(self, micro_batch: int, sequences: int) -> None:
        """A context of that micro-batch and room for so many sequences, emptied."""
        lib = self._lib
        if self._opened != (micro_batch, sequences):
            if self._context:
                lib.llama_free(self._context)
            options = lib.llama_context_default_params()
            options.n_ctx = 2**17
            options.n_batch = options.n_ubatch = micro_batch
            options.n_seq_max = sequences
            options.n_threads = options.n_threads_batch = self._threads
            self._context = lib.llama_init_from_model(self._model, options)
            if not self._context:
                raise RuntimeError("llama.cpp makes no context")
            self._opened = (micro_batch, sequences)
        lib.llama_memory_clear(lib.llama_get_memory(self._context), True)

    def _read(self, tokens: np.ndarray, position: int, sequences: np.ndarray, kept: Any) -> None:
        lib, n = self._lib, len(tokens)
        batch = lib.llama_batch_init(n, 0, 1)
        try:
            batch.n_tokens = n
            for i in range(n):
                batch.token[i] = int(tokens[i])
                batch.pos[i] = position + (i if len(sequences) == 1 else 0)
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = int(sequences[i if len(sequences) > 1 else 0])
                batch.logits[i] = 1 if i in kept else 0
            if lib.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama.cpp cannot read the batch")
            lib.llama_synchronize(self._context)
        finally:
            lib.llama_batch_free(batch)

    def _logits(self, i: int) -> np.ndarray:
        address = self._lib.llama_get_logits_ith(self._context, i)
        return np.ctypeslib.as_array(address, shape=(self.config.vocab_size,)).copy()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """As the protocol says."""
        self._batch = 0
        self._open(512, 1)
        logits = []
        for begin in range(0, len(tokens), 512):
            piece = tokens[begin : begin + 512]
            self._read(piece, begin, np.zeros(1, dtype=np.int64), range(len(piece)))
            logits += [self._logits(i) for i in range(len(piece))]
        return np.stack(logits)

    def _step(self, tokens: np.ndarray) -> None:
        n = len(tokens)
        self._read(tokens, self._position, np.arange(n), range(n))
        self._position += 1

    def _start(self, batch: int) -> None:
        self._open(512, batch)
        self._batch, self._position = batch, 0

    def stepped(self, tokens: np.ndarray) -> np.ndarray:
        """As the protocol says."""
        self._start(len(tokens))
        logits = []
        for i in range(tokens.shape[1]):
            self._step(tokens[:, i])
            logits.append(np.stack([self._logits(j) for j in range(len(tokens))]))
        self._batch = 0
        return np.stack(logits, axis=1)

    def prefill(self, tokens: int) -> float:
        """As the protocol says; with the faster of two micro-batches, tried at the first time."""
        self._batch = 0
        if not self._micro_batch:
            tried = {}
            for size in sorted({min(512, tokens), min(2048, tokens)}):
                self._prefill(tokens, size)
                tried[size] = self._prefill(tokens, size)
            self._micro_batch = min(tried, key=tried.__getitem__)
        return self._prefill(tokens, min(self._micro_batch, tokens))

    def _prefill(self, tokens: int, micro_batch: int) -> float:
        self._open(micro_batch, 1)
        text = random_tokens(self.config, tokens)
        zero = np.zeros(1, dtype=np.int64)
        begun = time.perf_counter()
        for begin in range(0, tokens, micro_batch):
            piece = text[begin : begin + micro_batch]
            self._read(piece, begin, zero, (len(piece) - 1,))
        return time.perf_counter() - begun

    def decode(self, batch: int, steps: int) -> float:
        """As the protocol says."""
        tokens = random_tokens(self.config, steps, batch)
        if self._batch != batch:
            self._start(batch)
            self._step(tokens[0])
        begun = time.perf_counter()
        for i in range(steps):
            self._step(tokens[i])
        return time.perf_counter() - begun


class Bare:
    """The machine alone: matrix products without a model around them, and copies of memory."""

    def __init__(self, folder: Path, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        c = self.config = config_of(folder)
        self._dtype = DTYPES[dtype]
        shapes = [(c.d_in_proj, c.d_model), (c.d_model, c.d_inner)] * c.n_layer
        self._weights = [torch.randn(s).to(self._dtype) for s in shapes]  # each layer has its own
        self._head = torch.randn(c.vocab_size, c.d_model).to(self._dtype)
        self._from: torch.Tensor | None = None

    def _product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self._dtype == torch.float32 and torch.backends.mkldnn.is_available():
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
            return out
        return F.linear(x, weight)

    def linears(self, tokens: int, logits: int) -> float:
        """Seconds of all layers' projections of so many tokens, and of the head for some."""
        c = self.config
        u = torch.randn(tokens, c.d_model).to(self._dtype)
        y = torch.randn(tokens, c.d_inner).to(self._dtype)
        with torch.inference_mode():
            begun = time.perf_counter()
            for i, weight in enumerate(self._weights):
                self._product(y if i % 2 else u, weight)
            self._product(u[:logits], self._head)
            return time.perf_counter() - begun

    def flops(self) -> float:
        """Operations a second of one large product."""
        n = 1536
        a, b = torch.randn(2, n, n).to(self._dtype)
        begun = time.perf_counter()
        self._product(a, b)
        return 2 * n**3 / (time.perf_counter() - begun)

    def memory(self) -> float:
        """Bytes a second: of a copy, read and written together, or of a sum, whichever is more."""
        if self._from is None:
            self._from = torch.ones(COPY_BYTES // 4)
            self._to = torch.ones(COPY_BYTES // 4)
        begun = time.perf_counter()
        self._to.copy_(self._from)
        copied = time.perf_counter()
        self._from.sum()
        read = time.perf_counter()
        return max(2 * COPY_BYTES / (copied - begun), COPY_BYTES / (read - copied))


class Training:
    """One contestant's training step: loss, gradients, AdamW. float32 weights in either dtype."""

    def __init__(self, kind: str, folder: Path, dtype: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.config = config_of(folder)
        self._autocast = dtype == "bf16"
        self.model: torch.nn.Module
        self._loss: Callable[[torch.Tensor], torch.Tensor]
        if kind == "transformers":
            self.model = Transformers(folder, "fp32", threads).model
            self._loss = self._loss_of_transformers
        else:
            model = Statewise(folder, "fp32", threads, plain=kind == "definition").model
            self.model, self._loss = model, self._loss_of_statewise
        self.model.train()
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def _loss_of_transformers(self, tokens: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.model(tokens, labels=tokens, use_cache=False).loss
        return loss

    def _loss_of_statewise(self, tokens: torch.Tensor) -> torch.Tensor:
        from statewise.model.layout import Layout
        from statewise.train.loss import SummedLoss
        from statewise.train.packing import NO_TARGET, Row

        targets = F.pad(tokens[:, 1:], (0, 1), value=NO_TARGET)
        row = Row(tokens, Layout.whole(*tokens.shape), targets)
        loss: torch.Tensor = SummedLoss(self.model)(row)
        return loss / (targets >= 0).sum()

    def _gradients(self, rows: int, length: int) -> tuple[torch.Tensor, float]:
        tokens = torch.from_numpy(random_tokens(self.config, rows, length))
        self._optimizer.zero_grad(set_to_none=True)
        begun = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            loss = self._loss(tokens)
        loss.backward()
        return loss.detach(), time.perf_counter() - begun

    def step(self, rows: int, length: int) -> dict[str, float]:
        """Seconds of a step: loss and gradients, and the optimizer apart."""
        loss, seconds = self._gradients(rows, length)
        begun = time.perf_counter()
        self._optimizer.step()
        optimizer = time.perf_counter() - begun
        return {"seconds": seconds, "optimizer_s": optimizer, "loss": float(loss)}

    def gradient(self, rows: int, length: int) -> dict[str, np.ndarray]:
        """The loss, and gradients of weights at both ends of the model and in between."""
        loss, _ = self._gradients(rows, length)
        layers = {0, self.config.n_layer - 1}
        wanted = ["backbone.embeddings.weight", "backbone.norm_f.weight"]
        wanted += [f"backbone.layers.{i}.mixer.{n}" for i in layers for n in WATCHED]
        named = dict(self.model.named_parameters())
        gradients = {"loss": loss.float().reshape(1).numpy()}
        for name in wanted:
            grad = named[name].grad
            if grad is None:
                raise RuntimeError(f"{name} has no gradient")
            gradients[name] = grad.float().numpy()
        return gradients

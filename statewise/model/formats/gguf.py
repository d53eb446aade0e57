"""GGUF, the one-file format of llama.cpp, architecture "mamba2": written by stream, read by map.

    token_embd.weight, output_norm.weight, output.weight unless it is tied, and for each layer
    blk.i.attn_norm.weight, ssm_in.weight, ssm_conv1d.{weight,bias}, ssm_dt.bias, ssm_a, ssm_d,
    ssm_norm.weight, ssm_out.weight

What is not a matrix is float32, as llama.cpp wants it; ssm_a holds -exp(A_log). The file format
itself is the `gguf` library's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from torch import Tensor

from statewise.errors import CheckpointError, ConfigError
from statewise.model.config import Mamba2Config
from statewise.model.formats.source import EMBEDDING, HEAD, Entry, Source
from statewise.model.formats.vocabulary import Carried, add_vocabulary

SUFFIX = ".gguf"
ARCHITECTURE = "mamba2"
CONTEXT_LENGTH = 1 << 20  # a state has no end; llama.cpp asks for a number
KINDS = {
    torch.float32: Kind.F32,
    torch.bfloat16: Kind.BF16,
    torch.float16: Kind.F16,
}
_FILE_TYPES = {Kind.F32: 0, Kind.F16: 1, Kind.Q8_0: 7, Kind.BF16: 32}
_DTYPES = {kind: dtype for dtype, kind in KINDS.items()}

_WHOLE = {
    EMBEDDING: "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
    HEAD: "output.weight",
}
_OF_A_LAYER = {
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
}
_OUR_WHOLE = {theirs: ours for ours, theirs in _WHOLE.items()}
_OURS_OF_A_LAYER = {theirs: ours for ours, theirs in _OF_A_LAYER.items()}
MATRICES = (EMBEDDING, HEAD, "in_proj.weight", "out_proj.weight")


def write_gguf(
    path: Path,
    config: Mamba2Config,
    kinds: Mapping[str, torch.dtype],
    read: Callable[[str], Tensor],
    *,
    name: str,
    carried: Carried,
    q8_0: bool = False,
) -> int:
    """Write a model, one tensor in memory at a time.

    Args:
        path: the file.
        config: its sizes.
        kinds: the dtype of every tensor, by our names, in the order in which `read` shall be asked.
        read: a tensor by our name.
        name: of the model, for people.
        carried: the tokenizer.
        q8_0: matrices as int8 with one factor for every 32 weights of a row.

    Returns:
        How many tensors there are in the file.

    Raises:
        CheckpointError: llama.cpp has no word for something in this model, or a row does not
            divide into 32 for Q8_0.
    """
    _check(config, q8_0=q8_0)
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_name(name)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)  # of attention
    writer.add_block_count(config.n_layer)
    writer.add_vocab_size(config.vocab_size)
    writer.add_ssm_conv_kernel(config.d_conv)
    writer.add_ssm_inner_size(config.d_inner)
    writer.add_ssm_state_size(config.d_state)
    writer.add_ssm_time_step_rank(config.nheads)
    writer.add_ssm_group_count(config.ngroups)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    large = Kind.Q8_0 if q8_0 else KINDS[kinds[EMBEDDING]]
    writer.add_file_type(_FILE_TYPES[large])
    add_vocabulary(writer, carried, config.vocab_size)
    planned = [(n, large if n.endswith(MATRICES) else Kind.F32) for n in kinds]
    if not config.conv_bias:  # llama.cpp always adds one
        bias = [f"backbone.layers.{i}.mixer.conv1d.bias" for i in range(config.n_layer)]
        planned += [(n, Kind.F32) for n in bias]
    for ours, kind in planned:
        shape = _their_shape(ours, config)
        size, stored = gguf.GGML_QUANT_SIZES[kind]
        nbytes = int(np.prod(shape)) // size * stored
        writer.add_tensor_info(_their_name(ours), shape, np.dtype(np.float32), nbytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for ours, kind in planned:
            tensor = read(ours) if ours in kinds else torch.zeros(config.conv_dim)
            writer.write_tensor_data(_raw(ours, tensor, kind, config))
    finally:
        writer.close()
    return len(planned)


def _check(config: Mamba2Config, *, q8_0: bool) -> None:
    """Refuse what the file could not say."""
    if config.dt_limit_low > 0 or config.dt_limit_high > 0:
        raise CheckpointError(
            "time_step_limit: llama.cpp knows no limits of the step size; without them this model "
            "computes something else"
        )
    if config.bias:
        raise CheckpointError("use_bias: llama.cpp knows no bias of the projections of Mamba-2")
    if q8_0 and (config.d_model % 32 or config.d_inner % 32):
        raise CheckpointError(
            f"--dtype q8_0: needs rows that divide into 32 weights, found {config.d_model} and "
            f"{config.d_inner}"
        )


def _their_name(ours: str) -> str:
    if ours in _WHOLE:
        return _WHOLE[ours]
    layer, _, rest = ours.removeprefix("backbone.layers.").partition(".")
    return f"blk.{layer}.{_OF_A_LAYER[rest]}"


def _our_name(theirs: str) -> str:
    """Ours for one of theirs; what is foreign stays as it is."""
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)", theirs)
    if layer and layer[2] in _OURS_OF_A_LAYER:
        return f"backbone.layers.{layer[1]}.{_OURS_OF_A_LAYER[layer[2]]}"
    return _OUR_WHOLE.get(theirs, theirs)


def _their_shape(ours: str, c: Mamba2Config) -> tuple[int, ...]:
    """As numpy has it: rows first."""
    shapes = {
        EMBEDDING: (c.vocab_size, c.d_model),
        HEAD: (c.vocab_size, c.d_model),
        "in_proj.weight": (c.d_in_proj, c.d_model),
        "out_proj.weight": (c.d_model, c.d_inner),
        "conv1d.weight": (c.conv_dim, c.d_conv),
        "conv1d.bias": (c.conv_dim,),
        "dt_bias": (c.nheads,),
        "A_log": (c.nheads, 1),
        "D": (c.nheads, 1),
        "mixer.norm.weight": (c.ngroups, c.d_inner // c.ngroups),
        "norm.weight": (c.d_model,),
        "norm_f.weight": (c.d_model,),
    }
    return next(shape for suffix, shape in shapes.items() if ours.endswith(suffix))


def _raw(ours: str, tensor: Tensor, kind: Kind, config: Mamba2Config) -> np.ndarray[Any, Any]:
    """A tensor's bytes as the file shall have them."""
    tensor = tensor.reshape(_their_shape(ours, config))
    if kind == Kind.Q8_0:
        return quantize(tensor.float().numpy(), kind)
    if ours.endswith("A_log"):
        tensor = -torch.exp(tensor.double())
    return tensor.to(_DTYPES[kind]).contiguous().view(torch.uint8).numpy()


class GGUF:
    """A GGUF file of ours or of llama.cpp's converter.

    Raises:
        CheckpointError: it is not one, is truncated, or of another architecture.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: gguf.GGUFReader | None = None
        self._tensors: dict[str, gguf.ReaderTensor] = {}
        architecture = self.text("general.architecture")
        if architecture != ARCHITECTURE:
            raise CheckpointError(
                f"{path}: its architecture is {architecture!r}; only {ARCHITECTURE!r} can be loaded"
            )

    def _opened(self) -> gguf.GGUFReader:
        if self._reader is None:
            try:
                self._reader = gguf.GGUFReader(self.path, "c")  # private pages
            except OSError as e:
                raise CheckpointError(f"{self.path}: cannot be read ({e})") from None
            except (ValueError, IndexError, KeyError, OverflowError, TypeError) as e:
                reason = str(e).partition("\n")[0]
                raise CheckpointError(
                    f"{self.path}: truncated or not a GGUF file ({reason}); fetch or write it again"
                ) from None
            self._tensors = {t.name: t for t in self._reader.tensors}
        return self._reader

    def field(self, key: str) -> Any:
        """A value of the header; None if there is none."""
        field = self._opened().get_field(key)
        return None if field is None else field.contents()

    def text(self, key: str) -> str | None:
        """A text of the header."""
        value = self.field(key)
        return value if isinstance(value, str) else None

    def _number(self, key: str, kind: type = int) -> Any:
        value = self.field(f"{ARCHITECTURE}.{key}")
        if type(value) is not kind:
            told = "is missing" if value is None else f"is {value!r}, not {kind.__name__}"
            raise CheckpointError(f"{self.path}: {ARCHITECTURE}.{key} {told}")
        return value

    def config(self) -> Mamba2Config:
        """The sizes; chunk_size and the range of initial step sizes are not told: upstream's.

        Raises:
            CheckpointError: naming the key that is missing or does not fit.
        """
        d_model, inner = self._number("embedding_length"), self._number("ssm.inner_size")
        heads = self._number("ssm.time_step_rank")
        if d_model < 1 or heads < 1 or inner % d_model or inner % heads:
            raise CheckpointError(
                f"{self.path}: {ARCHITECTURE}.ssm.inner_size is {inner}: not a multiple of "
                f"embedding_length {d_model} and of time_step_rank {heads}"
            )
        try:
            return Mamba2Config(
                d_model=d_model,
                n_layer=self._number("block_count"),
                d_state=self._number("ssm.state_size"),
                headdim=inner // heads,
                ngroups=self._number("ssm.group_count"),
                expand=inner // d_model,
                d_conv=self._number("ssm.conv_kernel"),
                vocab_size=self._vocabulary(),
                norm_eps=float(f"{self._number('attention.layer_norm_rms_epsilon', float):.7g}"),
                chunk_size=256,
                tie_embeddings="output.weight" not in self._tensors,
            )
        except ConfigError as e:
            raise CheckpointError(f"{self.path}: {e}") from None

    def _vocabulary(self) -> int:
        self._opened()
        if "token_embd.weight" not in self._tensors:
            raise CheckpointError(f"{self.path}: tensor 'token_embd.weight' is missing")
        return int(self._tensors["token_embd.weight"].shape[1])

    def entries(self) -> Iterator[Entry]:
        """Every tensor's header, in the order of the file."""
        for tensor in self._opened().tensors:
            name = _our_name(tensor.name)
            dtype = _DTYPES.get(tensor.tensor_type, torch.float32)
            shape = tuple(int(n) for n in reversed(tensor.shape.tolist()))
            if name.endswith("conv1d.weight") and len(shape) == 2:
                shape = (shape[0], 1, shape[1])
            elif name.endswith(("A_log", ".D", "mixer.norm.weight")):
                shape = (int(np.prod(shape)),)
            yield Entry(name, tensor.name, self.path, shape, dtype)

    def read(self, entry: Entry) -> Tensor:
        """One tensor; quantised ones as float32.

        Raises:
            CheckpointError: it cannot be dequantised, or a decay is not negative.
        """
        self._opened()
        tensor = self._tensors[entry.stored]
        if tensor.tensor_type in _DTYPES:
            flat = torch.from_numpy(tensor.data).view(-1).view(torch.uint8).view(entry.dtype)
        else:
            try:
                flat = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type))
            except RuntimeError:  # the library's word for a type it cannot undo is one of these
                raise CheckpointError(
                    f"{self.path}: tensor {entry.stored!r} is stored as "
                    f"{tensor.tensor_type.name}, which cannot be read back"
                ) from None
        values = flat.reshape(entry.shape)
        if entry.name.endswith("A_log"):
            if not (values < 0).all():
                raise CheckpointError(
                    f"{self.path}: tensor {entry.stored!r}: decays must be negative"
                )
            values = torch.log(-values.double()).to(entry.dtype)
        return values

    def forget(self) -> None:
        """Let go of the map; tensors that were read keep theirs."""
        self._reader, self._tensors = None, {}


def open_gguf(path: Path) -> Source:
    """The tensors of a GGUF file.

    Raises:
        CheckpointError: it is missing, corrupt, foreign, or its parts do not fit each other.
    """
    file = GGUF(path)
    return Source(file.config(), file, path)

"""A checkpoint of one layout as one of another, tensor by tensor: never two copies in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import torch
from torch import Tensor

from statewise import progress
from statewise.errors import CheckpointError
from statewise.model.formats.configs import CONFIG, to_hf, to_mamba_ssm
from statewise.model.formats.files import PICKLE, open_source
from statewise.model.formats.gguf import GGUF, MATRICES, write_gguf
from statewise.model.formats.source import EMBEDDING, EXACT, FORGET_AFTER, HEAD, Source
from statewise.model.formats.vocabulary import (
    Carried,
    is_understood,
    of_folder,
    of_header,
    write_vocabulary,
)
from statewise.model.formats.write import Planned, appearing, write_safetensors
from statewise.records import write_json

Target = Literal["hf", "mamba_ssm", "gguf"]
Kind = Literal["f32", "bf16", "f16", "q8_0"]
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

GENERATION = "generation_config.json"
# Beside the weights, copied byte by byte; generation_config.json is not among them, since published
# ones name token ids that are not the tokenizer's.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "tokenizer.model", "tokenizer.model.v3"),
)


class Converted(NamedTuple):
    """What was written.

    Attributes:
        tensors: how many.
        nbytes: of all files.
        without: what the new checkpoint lacks and a user would miss, if anything.
    """

    path: Path
    tensors: int
    nbytes: int
    without: str | None = None


def convert(
    origin: str | Path,
    target: str | Path,
    to: Target,
    dtype: Kind | None = None,
    *,
    eos_id: int | None = None,
    end_ids: Sequence[int] = (),
) -> Converted:
    """Write a checkpoint in another layout; it appears whole or not at all.

    Args:
        origin: a folder of any layout, or a GGUF file.
        target: the new folder, or for "gguf" the new file; must not exist.
        to: "hf" for `transformers` and vLLM, "mamba_ssm" for its `from_pretrained`, "gguf" for
            llama.cpp.
        dtype: of the large weights; by default as stored. "q8_0" is of GGUF alone. With a dtype
            dt_bias, A_log and D become float32.
        eos_id: the tokenizer's end of sequence, for the `config.json` of "hf".
        end_ids: every end of a completion; several go into the `generation_config.json` of a
            folder.

    Raises:
        CheckpointError: the source is corrupt or foreign, the target exists, a weight is too large
            for "f16", the dtype is not one of that layout, or the disk refused. Nothing is left.
    """
    origin, target = Path(origin), Path(target).absolute()
    if dtype == "q8_0" and to != "gguf":
        raise CheckpointError(f"--dtype q8_0: is a type of GGUF; {to!r} has {', '.join(DTYPES)}")
    source = open_source(origin)
    work = source.nbytes * (2 if to == "mamba_ssm" else 1)
    with progress.task("convert", work / 1e6, "MB") as shown:

        def done(nbytes: int) -> None:
            shown.update(shown.done + nbytes / 1e6)

        with appearing(target) as temporary:
            reading = _Reading(source, to, None if dtype is None else DTYPES.get(dtype), done)
            tensors, without = len(list(source)), None
            carried = of_folder(origin, eos_id)
            if origin.is_file():
                carried = of_header(GGUF(origin).field)
            if to == "gguf":
                tensors = _write_gguf(reading, temporary, target.stem, carried, dtype)
                if not is_understood(carried):
                    without = "no vocabulary that llama.cpp can use: it takes token ids only"
            else:
                temporary.mkdir()
                if origin.is_file():
                    write_vocabulary(carried, temporary)
                    eos_id = carried.eos_id
                    if carried.tokenizer is None:
                        without = "no tokenizer.json: the file carries none of that form"
                else:
                    carry_tokenizer(origin, temporary)
                if len(end_ids) > 1:
                    write_json(temporary / GENERATION, {"eos_token_id": list(end_ids)})
                if to == "hf":
                    _write_hf(reading, temporary, eos_id)
                else:
                    _write_mamba_ssm(reading, temporary, done)
            written = [temporary] if temporary.is_file() else list(temporary.iterdir())
            nbytes = sum(path.stat().st_size for path in written)
    return Converted(target, tensors, nbytes, without)


class _Reading:
    """Tensors of a source in the dtype they shall have, and what has been read so far."""

    def __init__(
        self, source: Source, to: Target, dtype: torch.dtype | None, done: Callable[[int], None]
    ) -> None:
        self.source, self._to, self._dtype, self._done = source, to, dtype, done
        self._unforgotten = 0

    def dtype(self, name: str) -> torch.dtype:
        if self._dtype is None:
            return self.source[name].dtype
        if self._to == "gguf" and not name.endswith(MATRICES):
            return torch.float32  # as they will be in the file
        return torch.float32 if name.endswith(EXACT) else self._dtype

    def plan(self) -> list[Planned]:
        return [Planned(n, self.source[n].shape, self.dtype(n)) for n in self.source]

    def read(self, name: str) -> Tensor:
        entry = self.source[name]
        if self._unforgotten > FORGET_AFTER:
            self.source.forget()
            self._unforgotten = 0
        tensor = self.source.read(name).to(self.dtype(name))
        if tensor.dtype == torch.float16 != entry.dtype and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{entry.file}: tensor {entry.stored!r} does not fit into float16, whose largest "
                "number is 65,504; choose bf16"
            )
        self._unforgotten += entry.nbytes
        self._done(entry.nbytes)
        return tensor


def _write_hf(reading: _Reading, folder: Path, eos_id: int | None) -> None:
    dtype = reading.dtype(EMBEDDING)
    write_json(folder / CONFIG, to_hf(reading.source.config, eos_id=eos_id, dtype=dtype))
    write_safetensors(folder, reading.plan(), reading.read)


def _write_gguf(
    reading: _Reading,
    path: Path,
    name: str,
    carried: Carried,
    dtype: Kind | None,
) -> int:
    kinds = {planned.name: planned.dtype for planned in reading.plan()}
    config, q8_0 = reading.source.config, dtype == "q8_0"
    return write_gguf(path, config, kinds, reading.read, name=name, carried=carried, q8_0=q8_0)


def _write_mamba_ssm(reading: _Reading, folder: Path, done: Callable[[int], None]) -> None:
    """Plain tensors in a pickle, which is all that `from_pretrained` there reads.

    A pickle wants all its tensors at once: those whose dtype agrees stay in the source's map.
    """
    config = reading.source.config
    write_json(folder / CONFIG, to_mamba_ssm(config))
    weights = {n.replace("embeddings.", "embedding."): reading.read(n) for n in reading.source}
    if config.tie_embeddings:
        weights[HEAD] = weights[EMBEDDING.replace("embeddings.", "embedding.")]
    with (folder / PICKLE).open("wb") as f:
        torch.save(weights, _Counted(f, done))  # type: ignore[arg-type] # asks for no more


class _Counted:
    """A file that tells how much was written to it."""

    def __init__(self, inner: BinaryIO, done: Callable[[int], None]) -> None:
        self._inner, self._done = inner, done

    def write(self, data: bytes) -> int:
        self._done(len(data))
        return self._inner.write(data)

    def flush(self) -> None:
        self._inner.flush()


def carry_tokenizer(origin: Path, folder: Path) -> None:
    """Copy the tokenizer's files from a checkpoint into a new one."""
    for name in _TOKENIZER_FILES:
        if (origin / name).is_file():
            shutil.copyfile(origin / name, folder / name)

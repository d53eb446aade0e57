"""Statewise: language models that reason without attention.

    model, tokenizer = statewise.load("runs/mini/checkpoint")
    engine = statewise.Engine(model, tokenizer, slots=8)
    for completion in engine.sample([statewise.Prompt("p1", text)], statewise.SamplingParams(n=4)):
        ...

Importing the package costs nothing: a name brings its module, and with it torch, when it is used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from statewise.engine import Engine, Request
    from statewise.model import Mamba2Config, Mamba2LM
    from statewise.model.ops import Backend, Device
    from statewise.sampler import Prompt, Sampler, SamplingParams, ScriptedSampler
    from statewise.text import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Engine",
    "Mamba2Config",
    "Mamba2LM",
    "Prompt",
    "Request",
    "Sampler",
    "SamplingParams",
    "ScriptedSampler",
    "__version__",
    "load",
]

_HOMES = {
    "Engine": "statewise.engine",
    "Mamba2Config": "statewise.model",
    "Mamba2LM": "statewise.model",
    "Prompt": "statewise.sampler",
    "Request": "statewise.engine",
    "Sampler": "statewise.sampler",
    "SamplingParams": "statewise.sampler",
    "ScriptedSampler": "statewise.sampler",
}


def load(
    path_or_hub_id: str | Path, *, device: Device = "cpu", backend: Backend = "auto"
) -> tuple[Mamba2LM, Tokenizer]:
    """The model and the tokenizer of a checkpoint. On a CPU weights stay in the file's memory map.

    Args:
        path_or_hub_id: a folder in the layout of Hugging Face `mamba2`, `mamba_ssm` or Mistral; if
            there is none of that name, a hub id "owner/name", of which only JSON and safetensors
            files are fetched (`pytorch_model.bin` where it has nothing else; its tensors are read
            by torch's weights-only loader, and nothing of it is run).
        device: "cuda": on the first GPU; "auto": there if torch sees one.
        backend: who computes, as for `Mamba2LM`.

    Returns:
        `(model, tokenizer)`: a `Mamba2LM` in the dtypes it is stored in, ready for decoding or
        further training, and its tokenizer. Where there is no `tokenizer.json` beside the weights
        the model is of use all the same, and the tokenizer raises `DataError` once text is needed.

    Raises:
        ConfigError: there is no GPU, or the backend cannot work there.
        CheckpointError: missing, corrupt, of a foreign architecture, or with a tokenizer that does
            not fit; the message names file and tensor.
        DataError: the `tokenizer.json` beside the weights is not readable.
    """
    from statewise.model import checkpoint
    from statewise.model.ops import place
    from statewise.text import BPETokenizer, MissingTokenizer

    where = place(device)
    folder = checkpoint.locate(path_or_hub_id)
    config = checkpoint.read_config(folder)  # what is cheap to check comes before the weights
    file = folder / "tokenizer.json"
    tokenizer: Tokenizer = MissingTokenizer(folder)
    if file.exists():
        tokenizer = BPETokenizer.load(folder)
        checkpoint.check_tokenizer(tokenizer, config, str(file))
    model = checkpoint.load_model(folder).to(where)
    model.use(backend)
    return model, tokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'statewise' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

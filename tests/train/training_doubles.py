"""Small documents, a small model, and a trainer around them."""

from __future__ import annotations

import json

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from statewise.model import Mamba2Config, Mamba2LM
from statewise.train.config import Phase, Source, TrainConfig
from statewise.train.packing import Document
from statewise.train.trainer import Trainer

VOCAB = 24
ONE_SOURCE = (Source("x"),)


def document(rng, length, num_prompt):
    return Document(rng.integers(0, VOCAB, length).astype(np.int32), num_prompt)


@st.composite
def documents(draw, min_size=1, max_size=8, max_length=20):
    """Documents of at least one prompt token, one completion token or end, and random ids."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(2, max_length), min_size=min_size, max_size=max_size))
    return [document(rng, n, draw(st.integers(1, n - 1))) for n in lengths]


def some_documents(count=24, seed=0, longest=14):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(rng.integers(4, longest + 1))
        found.append(document(rng, length, int(rng.integers(1, length))))
    return found


def small_model(seed=0, spread=0.1, **shape):
    """A model whose parameters are all off their starting values."""
    torch.manual_seed(seed)
    sizes = {"d_model": 12, "n_layer": 2, "d_state": 4, "headdim": 6, "chunk_size": 8}
    model = Mamba2LM(Mamba2Config(**(sizes | {"vocab_size": VOCAB} | shape)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model


def phases(*tokens, **settings):
    names = "abcdef"
    return tuple(
        Phase(names[i], ONE_SOURCE, n, **({"lr": 1e-2} | settings)) for i, n in enumerate(tokens)
    )


TWO_PHASES = TrainConfig(
    phases(120, 90, warmup_steps=2, decay="linear"),
    batch_tokens=40,
    row_tokens=20,
    checkpoint_every_s=0.0,
)


def trainer(folder, config=TWO_PHASES, model=None, pools=None, seed=3, **more):
    model = small_model() if model is None else model
    pools = [[some_documents()]] * len(config.phases) if pools is None else pools

    def save(target, weights):
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: p.detach().clone() for n, p in weights.items()}, target)

    return Trainer(model, config, pools, folder, seed=seed, save=save, **more)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def results(folder):
    """Everything that training leaves behind, but for how long it took."""
    found = {
        "metrics": [{k: v for k, v in m.items() if k != "tokens_per_s"} for m in metrics(folder)]
    }
    for path in sorted(folder.glob("after-*")):
        found[path.name] = raw(load_file(path))
    for path in sorted((folder / "checkpoints").glob("phase-*")):
        state = json.loads((path / "training.json").read_text())
        del state["progress"]["wall_s"], state["bytes"]
        parts = [load_file(part) for part in sorted(path.glob("part-*"))]
        found[path.name] = (state, raw({k: v for part in parts for k, v in part.items()}))
    return found


def raw(tensors):
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}

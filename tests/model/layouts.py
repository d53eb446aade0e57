"""Small random checkpoints in the layouts of others, as their own tools would have written them."""

import json

import torch
from safetensors.torch import save_file
from tiny_models import generator

from statewise.model import Mamba2Config
from statewise.model.formats.configs import to_hf
from statewise.model.formats.source import EMBEDDING, HEAD, expected_shapes
from statewise.model.formats.write import Planned, write_safetensors

CODESTRAL = Mamba2Config(  # its sizes but for width, depth and vocabulary, which are small
    d_model=64, n_layer=2, d_state=128, headdim=64, ngroups=2, chunk_size=256, vocab_size=288,
    tie_embeddings=False,
)  # fmt: skip


def random_weights(config, seed=0, dtype=torch.bfloat16):
    """By our names; nothing is left at a value that hides an error. A tied head is left out."""
    rng = generator(seed)
    shapes = expected_shapes(config)
    if config.tie_embeddings:
        del shapes[HEAD]
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=rng)
        if name.endswith("in_proj.weight") or name.endswith("out_proj.weight") or name == HEAD:
            drawn /= shape[-1] ** 0.5
        elif name.endswith(("norm.weight", "norm_f.weight")):
            drawn = 1 + 0.1 * drawn
        elif name.endswith("A_log"):
            drawn = torch.log(1 + 15 * torch.rand(shape, generator=rng))
        elif name.endswith("dt_bias"):
            drawn -= 2
        weights[name] = drawn.to(dtype)
    return weights


def hf_folder(folder, config, weights, *, max_shard_bytes=10**9):
    """A Hugging Face folder of some weights."""
    folder.mkdir()
    described = to_hf(config, eos_id=None, dtype=weights[EMBEDDING].dtype)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    planned = [Planned(n, tuple(w.shape), w.dtype) for n, w in weights.items()]
    write_safetensors(folder, planned, weights.__getitem__, max_shard_bytes=max_shard_bytes)
    return folder


def mamba_ssm_folder(folder, config, weights, *, padded_from=None, **entries):
    """`MambaLMHeadModel.save_pretrained`: config.json with defaults left out, and a pickle."""
    sizes = {"d_state": 128, "headdim": 64, "ngroups": 1, "chunk_size": 256}
    ssm = {k: getattr(config, k) for k, v in sizes.items() if getattr(config, k) != v}
    stored = {
        "d_model": config.d_model,
        "d_intermediate": 0,
        "n_layer": config.n_layer,
        "vocab_size": padded_from or config.vocab_size,
        "ssm_cfg": {"layer": "Mamba2", **ssm},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16 if padded_from else 1,
        "tie_embeddings": config.tie_embeddings,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**stored, **entries}))
    theirs = {k.replace("embeddings.", "embedding."): v for k, v in weights.items()}
    if config.tie_embeddings:
        theirs[HEAD] = theirs["backbone.embedding.weight"]
    torch.save(theirs, folder / "pytorch_model.bin")
    return folder


def mistral_folder(folder, config, weights, **entries):
    """The original release of Codestral Mamba."""
    stored = {
        "dim": config.d_model,
        "n_layers": config.n_layer,
        "vocab_size": config.vocab_size,
        "n_groups": config.ngroups,
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": config.tie_embeddings,
        "model_type": "mamba",
    }
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps({**stored, **entries}))
    theirs = {f"model.{k}".replace("embeddings.", "embedding."): v for k, v in weights.items()}
    save_file(theirs, folder / "consolidated.safetensors")
    return folder


def codestral_config(config):
    """The config.json of its Hugging Face release, with what is wrong in it."""
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "bos_token_id": 0,
        "chunk_size": config.chunk_size,
        "conv_kernel": 4,
        "eos_token_id": 0,
        "expand": 2,
        "head_dim": config.headdim,
        "hidden_act": "silu",
        "hidden_size": config.d_model,
        "initializer_range": 0.1,
        "intermediate_size": 2 * config.d_model,
        "layer_norm_epsilon": 1e-05,
        "model_type": "mamba2",
        "n_groups": config.ngroups,
        "norm_before_gate": True,
        "num_heads": config.nheads,
        "num_hidden_layers": config.n_layer,
        "pad_token_id": 0,
        "residual_in_fp32": True,
        "rms_norm": True,
        "state_size": config.d_state,
        "tie_word_embeddings": False,
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "torch_dtype": "bfloat16",
        "use_bias": False,
        "use_conv_bias": True,
        "vocab_size": config.vocab_size,
    }

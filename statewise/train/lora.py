"""Adapters: low-rank additions to the projections of every layer, by `peft`.

Hu et al. 2021 (arXiv 2106.09685). A projection W of an adapted model is W + alpha / rank B A, of
which A and B alone are trained: they have gradients and moments, and checkpoints hold them. What is
adapted has none of these and may lie in bfloat16.

peft's dropout is left out: it draws from torch's one generator, so that neither a training that was
resumed nor a block that is computed again would draw the same, and the loop promises both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from statewise.errors import ConfigError
from statewise.model.formats.write import appearing
from statewise.model.language_model import LanguageModel
from statewise.train.config import PROJECTIONS, LoraConfig

# Names that peft gives: PROJECTION.base_layer.weight, PROJECTION.lora_A.default.weight and lora_B.
_BASE, _A, _B = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
_FILE = "adapter_model.safetensors"
# Weights to a scale. bitsandbytes would let blocks go on in the next row, but 0.50 on the CPU reads
# such weights back wrong, by up to the block's largest (docs/log.md).
_BLOCK = 64


def adapt(model: LanguageModel[Any], config: LoraConfig, seed: int) -> None:
    """Give a model adapters, in place, and let nothing else of it be trained.

    At first they add nothing: A is drawn, B is zero.

    Args:
        model: its projections are modules of the names that `config.targets` has.
        config: with a rank above 0.
        seed: the same seed draws the same A.

    Raises:
        ConfigError: peft, or what holds four bits, cannot be imported, or cannot hold these.
    """
    assert isinstance(model, nn.Module)
    peft = _peft()
    model.requires_grad_(False)
    if config.base == "nf4":
        _to_four_bits(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(_described(config), model)
    for parameter in model.parameters():
        if parameter.requires_grad:  # peft gives them the dtype of what they adapt
            parameter.data = parameter.data.float()


def _to_four_bits(model: nn.Module) -> None:
    """Let the projections of every layer lie in NF4, their scales in 8 bits, in place."""
    try:
        from bitsandbytes.nn import Linear4bit
    except ImportError as e:
        raise ConfigError(
            f'train.lora.base: "nf4" needs bitsandbytes, which cannot be imported ({e}): '
            "pip install 'statewise[qlora]'"
        ) from None
    found = [(m, name) for m in model.modules() for name in PROJECTIONS if hasattr(m, name)]
    for module, name in found:
        whole = getattr(module, name)
        if whole.in_features % _BLOCK:
            raise ConfigError(
                f'train.lora.base: "nf4" has one scale for {_BLOCK} weights of a row, but '
                f"{name} has rows of {whole.in_features}"
            )
        layer = Linear4bit(
            whole.in_features,
            whole.out_features,
            bias=whole.bias is not None,
            compute_dtype=whole.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        layer.weight = type(layer.weight)(
            whole.weight.data, blocksize=_BLOCK, quant_type="nf4", module=layer
        ).to(whole.weight.device)  # this is where it counts in four bits
        layer.bias = whole.bias
        # Where nobody asks for gradients it would lay the weight out anew for good, as only some
        # processors can read it.
        layer.support_avx512bf16_for_cpu = False
        setattr(module, name, layer)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft asks for it


def dense(weight: Tensor) -> Tensor:
    """A weight as it is multiplied with: read back, where it lies in four bits."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    read: Tensor = dequantize_4bit(weight.data, state)
    return read


@contextmanager
def off(model: LanguageModel[Any]) -> Iterator[None]:
    """Let an adapted model compute, while the context lasts, what it did before it was adapted."""
    assert isinstance(model, nn.Module)
    # peft's own switch also changes what is trained, which those who hold parameters would see.
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "lora_A")]
    before = [dict(layer.scaling) for layer in layers]
    for layer in layers:
        layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling.update(scaling)


def merged(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The weights of a model without adapters that computes what an adapted one does.

    Args:
        weights: those of the adapted model, whole, by the names of its `named_parameters`.
        config: as it was adapted.

    Returns:
        Tensors on the CPU by upstream's names, summed in float32, in the dtypes that they had.
    """
    found = {}
    for name, weight in weights.items():
        if name.endswith((_A, _B)):
            continue
        whole = weight.detach().cpu()
        stem, base, kind = name.partition(_BASE)
        if base and kind == "weight":
            low, high = weights[stem + _A].cpu(), weights[stem + _B].cpu()
            added = config.alpha / config.rank * (high @ low)
            whole = (whole.float() + added).to(whole.dtype)
        found[name.replace(_BASE, ".")] = whole
    return found


def save(folder: Path, weights: Mapping[str, Tensor], config: LoraConfig, base: str) -> None:
    """Write adapters as peft does, for `peft.PeftModel.from_pretrained`; whole or not at all.

    peft 0.21 refuses adapters of "out_proj" for the `Mamba2ForCausalLM` of `transformers`, whose
    kernels for GPUs read that weight past the layer; what `merged` gives has them.

    Args:
        folder: where; if it is there already, it is left as it is.
        weights: those of the adapted model, whole, by the names of its `named_parameters`.
        config: as it was adapted.
        base: folder or hub id of what was adapted.
    """
    if folder.exists():
        return
    adapters = {
        f"base_model.model.{name.replace('.default.', '.')}": weight.detach().cpu().contiguous()
        for name, weight in weights.items()
        if name.endswith((_A, _B))
    }
    with appearing(folder) as temporary:
        temporary.mkdir()
        described = _described(config, base_model_name_or_path=base or None, inference_mode=True)
        described.save_pretrained(str(temporary))
        save_file(adapters, temporary / _FILE, metadata={"format": "pt"})


def _described(config: LoraConfig, **more: Any) -> Any:
    return _peft().LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
        **more,
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as e:
        raise ConfigError(
            f"train.lora.rank: adapters need peft, which cannot be imported ({e}): "
            "pip install 'statewise[lora]'"
        ) from None
    return peft

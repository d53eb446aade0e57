"""A model on its processes: what is held where, applied from outside, in one stated order.

1. adapters      what is trained: every weight, or LoRA's matrices alone (`statewise.train.lora`)
2. activations   which blocks compute them again in the backward pass (`recompute`)
3. rows          whole in a process, or in parts in several (`statewise.train.context`)
4. weights       whole in every process (DistributedDataParallel), or in pieces (FSDP2, ZeRO)
5. optimiser     over what was left in this process of what is trained

The training loop sees an `Engine` and none of it. Processes are those that `accelerate launch`,
`torchrun` or `deepspeed` started; with none of these there is one. The engines are torch's and
DeepSpeed's own, not accelerate's wrappers: those refuse FSDP2 on a CPU, where it is tested, and
take DeepSpeed's step in the backward pass, before anyone could look at the gradient
(`docs/decisions/0026-engines-and-checkpoints.md`).
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from statewise.errors import ConfigError
from statewise.model.language_model import LanguageModel
from statewise.model.mamba2 import Mamba2Mixer
from statewise.train import lora
from statewise.train.checkpoints import Rank
from statewise.train.config import ParallelConfig, TrainConfig
from statewise.train.context import share_rows
from statewise.train.optim import MOMENTS, build_optimizers
from statewise.train.packing import Row


class Engine:
    """Whole weights in every process: one alone, or torch's DistributedDataParallel.

    Args:
        model: the language model; stays what is trained.
        loss: a module around it, of which a row's summed loss is asked.
        config: the optimiser, and how the model is spread.
    """

    def __init__(self, model: LanguageModel[Any], loss: nn.Module, config: TrainConfig) -> None:
        self.config = config
        self.state = PartialState(cpu=not torch.cuda.is_available())
        if config.parallel.engine != "ddp":
            _group_of_one()
        self.model = model
        self.loss: nn.Module = loss.to(self.device)
        self.optimizers: list[Any] = []
        self._spread()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.state.device

    @property
    def index(self) -> int:
        """The number of this process, from 0."""
        return self.state.process_index

    @property
    def world(self) -> int:
        """How many processes train together."""
        return self.state.num_processes

    @property
    def lanes(self) -> int:
        """How many rows are read at once: each by one process, or by several that share it."""
        return self.world // self.config.parallel.context

    @property
    def lane(self) -> int:
        """Which of these this process reads of, from 0."""
        return self.index // self.config.parallel.context

    def part(self, row: Row) -> Row:
        """What this process reads of a row, on its device."""
        count = self.config.parallel.context
        return row.part(self.index % count, count).to(self.device)

    @property
    def rank(self) -> Rank:
        """This process, as checkpoints know it."""
        return Rank(self.index, self.world, self.state.wait_for_everyone)

    def _spread(self) -> None:
        self.optimizers = build_optimizers(self.model, self.config)
        if self.world > 1:
            self.loss = nn.parallel.DistributedDataParallel(
                self.loss, device_ids=[self.device] if self.device.type == "cuda" else None
            )

    def forward(self, row: Row, *, last: bool) -> Tensor:
        """What `loss` sums of a row; `last` is as for `backward`, and decides here already."""
        spread = isinstance(self.loss, nn.parallel.DistributedDataParallel)
        with self.loss.no_sync() if spread and not last else nullcontext():  # type: ignore[operator]
            return self.loss(row)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a row's gradient; with a step's last row the processes take their mean."""
        loss.backward()

    def settle(self) -> None:
        """Bring weights back into pieces behind a forward pass that no backward pass followed."""

    def update(self, lr: float) -> float:
        """Clip the gradient, take an optimiser step with it and forget it.

        Returns:
            The gradient's norm before clipping. Where it is not finite the weights and moments
            are those from before.
        """
        self._set_rate(lr)
        norm = self._clip()
        if math.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        self.forget()
        return norm

    def _set_rate(self, lr: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    def _clip(self) -> float:
        return float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip))

    def forget(self) -> None:
        """Drop the gradient of a step that is not taken."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def reset(self) -> None:
        """Forget the moments, as if no step had been taken."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def totals(self, *values: float | Tensor) -> list[float]:
        """The sums over the processes of some numbers, which all of them get."""
        mine = torch.stack(
            [torch.as_tensor(v, dtype=torch.float32).to(self.device) for v in values]
        )
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(mine)
        return mine.tolist()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Trained weights and moments, whole, one by one; every process asks at once."""
        for name, parameter in self._trained():
            yield f"model.{name}", self._weight(parameter)
            for moment in self._moments(parameter):
                tensor = self._moment(parameter, moment)
                if tensor is not None:
                    yield f"{moment}.{name}", tensor

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights, whole, one by one; every process asks at once."""
        for name, parameter in self.model.named_parameters():
            yield name, self._weight(parameter)

    def restore(self, tensors: Callable[[str], Tensor | None], steps: int) -> None:
        """Take up trained weights and moments; every process calls it.

        Args:
            tensors: a whole tensor by its name in `tensors`, or None if there is none.
            steps: how many steps the moments have seen.
        """
        with torch.no_grad():
            for name, parameter in self._trained():
                weight = tensors(f"model.{name}")
                if weight is None:
                    raise KeyError(f"model.{name}")
                self._set_weight(parameter, weight)
                moments = {m: tensors(f"{m}.{name}") for m in self._moments(parameter)}
                if all(t is not None for t in moments.values()):
                    self._set_moments(parameter, moments, steps)  # type: ignore[arg-type]

    @property
    def steps(self) -> int:
        """How many steps the moments have seen."""
        states = [s for optimizer in self.optimizers for s in optimizer.state.values()]
        return max((int(s["step"]) for s in states if "step" in s), default=0)

    def _holder(self, parameter: nn.Parameter) -> Any:
        """The optimiser that steps a weight."""
        for optimizer in self.optimizers:
            if any(p is parameter for g in optimizer.param_groups for p in g["params"]):
                return optimizer
        raise KeyError("a weight that no optimiser steps")

    def _moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        """The names of what is remembered of a weight."""
        return MOMENTS[type(self._holder(parameter))]

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.model.named_parameters() if p.requires_grad)

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        return lora.dense(parameter)

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor | None:
        state = self._holder(parameter).state.get(parameter)
        return state[name] if state else None

    def _set_weight(self, parameter: nn.Parameter, whole: Tensor) -> None:
        _same(parameter.shape, whole)
        parameter.copy_(whole)

    def _set_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor], steps: int) -> None:
        holder = self._holder(parameter)
        state = {name: self._piece(parameter, whole) for name, whole in moments.items()}
        if isinstance(holder, torch.optim.AdamW):
            state["step"] = torch.tensor(float(steps), device=parameter.device)
        holder.state[parameter] = state

    def _piece(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        return whole.to(parameter.device, parameter.dtype)


class FSDP2(Engine):
    """Weights, gradients and moments in pieces, a block at a time made whole: torch's FSDP2."""

    def _spread(self) -> None:
        from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        # Blocks hand on views of their states; nothing ever writes into what a block returns.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        if self.config.parallel.context == 1:
            mesh = init_device_mesh(self.device.type, (self.world,))
        else:  # those that share a row are in different layers: no layer is in pieces among them
            numbers = torch.arange(self.world).view(self.lanes, -1).t()
            mesh = DeviceMesh(self.device.type, numbers, mesh_dim_names=("context", "data"))
        offload = self.config.parallel.offload and self.device.type != "cpu"
        how: dict[str, Any] = {
            "mesh": mesh,
            "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy(),
        }
        for block in self.model.blocks:
            fully_shard(block, **how)
        fully_shard(self.loss, **how)
        self.optimizers = build_optimizers(self.model, self.config)

    def settle(self) -> None:
        """As `Engine.settle`."""
        for module in (*self.model.blocks, self.loss):
            module.reshard()  # type: ignore[operator]

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """As `Engine.backward`."""
        self.loss.set_requires_gradient_sync(last)  # type: ignore[operator]
        loss.backward()

    def _clip(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        return float(norm.full_tensor())  # type: ignore[attr-defined]

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        return parameter.detach().full_tensor()  # type: ignore[attr-defined]

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor | None:
        piece = super()._moment(parameter, name)
        return None if piece is None else piece.full_tensor()  # type: ignore[attr-defined]

    def _set_weight(self, parameter: nn.Parameter, whole: Tensor) -> None:
        _same(parameter.shape, whole)
        parameter.copy_(self._piece(parameter, whole))

    def _piece(self, parameter: nn.Parameter, whole: Tensor) -> Tensor:
        from torch.distributed.tensor import distribute_tensor

        on_device = whole.to(self.device, parameter.dtype)
        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        piece = distribute_tensor(on_device, mesh, placements)
        return piece.to(parameter.device)


class Zero(Engine):
    """DeepSpeed's ZeRO: moments and gradients in pieces (stage 2), weights too (stage 3)."""

    def _spread(self) -> None:
        os.environ.setdefault("LOCAL_RANK", "0")  # it asks for it, also where nobody launched it
        if self.device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        try:
            import deepspeed
        except ImportError as e:
            raise ConfigError(
                f"train.parallel.engine: {self.config.parallel.engine!r} needs DeepSpeed, which "
                f"cannot be imported ({e}): pip install 'statewise[deepspeed]'"
            ) from None
        stage = 3 if self.config.parallel.engine == "zero3" else 2
        zero: dict[str, Any] = {"stage": stage}
        if self.config.parallel.offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": self.device.type != "cpu"}
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": self.config.clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        if stage == 3:
            from deepspeed.utils import set_z3_leaf_modules

            set_z3_leaf_modules(self.model, [type(self.model.blocks[0])])
        (base,) = build_optimizers(self.model, self.config)
        self._base = base
        deepspeed.init_distributed(dist_backend=self.state.backend or "gloo", verbose=False)
        self.loss, self._zero, _, _ = deepspeed.initialize(
            model=self.loss, optimizer=base, config=settings
        )
        self._make_moments(stage)

    def _make_moments(self, stage: int) -> None:
        """Make the moments now, and let every weight know its piece of them.

        DeepSpeed makes them in the first step. At stage 2 it then links weights to moments behind
        the first group of weights, when the second group has none, and never again (0.19.8).
        """
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        zero = self._zero
        flats = (
            zero.fp32_partitioned_groups_flat
            if stage == 3
            else zero.single_partition_of_fp32_groups
        )
        for flat in flats:
            moments = {m: torch.zeros_like(flat, requires_grad=False) for m in self._moments(flat)}
            self._base.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
        if stage == 2:
            for group, flat in zip(zero.bit16_groups, flats, strict=True):
                lazy_init_hp_params_optimizer_state(group, flat, self._base.state)
            zero._hp_optimizer_states_linked = True

    def _count(self, steps: int) -> None:
        """Set what AdamW corrects its bias by."""
        for state in self._base.state.values():
            state["step"] = torch.full_like(state["step"], float(steps))

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """As `Engine.backward`."""
        self.loss.set_gradient_accumulation_boundary(is_boundary=last)  # type: ignore[operator]
        self.loss.backward(loss)  # type: ignore[operator]

    def update(self, lr: float) -> float:
        """As `Engine.update`."""
        for group in self._zero.param_groups:
            group["lr"] = lr
        self.loss.step()  # type: ignore[operator]
        if self._zero.overflow:
            return math.inf
        norm = self.loss.get_global_grad_norm()  # type: ignore[operator]
        return float(norm)

    def forget(self) -> None:
        """As `Engine.forget`: DeepSpeed drops a gradient that is no number where it would step."""
        self.update(0.0)

    def reset(self) -> None:
        """As `Engine.reset`."""
        for state in self._base.state.values():
            for moment in MOMENTS[torch.optim.AdamW]:
                state[moment].zero_()
        self._count(0)

    @property
    def steps(self) -> int:
        """As `Engine.steps`."""
        return max(int(s["step"]) for s in self._base.state.values())

    def _moments(self, parameter: nn.Parameter) -> tuple[str, ...]:
        return MOMENTS[torch.optim.AdamW]

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(parameter)

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor | None:
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, name)

    def _set_weight(self, parameter: nn.Parameter, whole: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param

        whole = whole.to(self.device)
        _same(getattr(parameter, "ds_shape", parameter.shape), whole)
        safe_set_full_fp32_param(parameter, whole)  # what the optimiser steps on
        if not hasattr(parameter, "ds_id"):  # and what the next forward pass reads
            parameter.copy_(whole)
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self.index == 0:
                parameter.copy_(whole)

    def _set_moments(self, parameter: nn.Parameter, moments: dict[str, Tensor], steps: int) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state

        for name, whole in moments.items():
            safe_set_full_optimizer_state(parameter, whole.to(self.device), name)
        self._count(steps)


def parallelize(
    model: LanguageModel[Any], loss: nn.Module, config: TrainConfig, seed: int
) -> Engine:
    """Spread a model over the processes there are.

    Args:
        model: the language model.
        loss: the module around it that a row's loss is asked of.
        config: says how, under `lora` and `parallel`.
        seed: adapters are drawn from it.

    Raises:
        ConfigError: the engine cannot work here; the message says why.
    """
    if config.lora.rank:
        lora.adapt(model, config.lora, seed)
    recompute(model, config.parallel)
    if config.parallel.context > 1:
        PartialState(cpu=not torch.cuda.is_available())  # the processes
        share_rows(model, config.parallel.context)
    kinds = {"ddp": Engine, "fsdp2": FSDP2, "zero2": Zero, "zero3": Zero}
    return kinds[config.parallel.engine](model, loss, config)


def recompute(model: LanguageModel[Any], config: ParallelConfig) -> None:
    """Let blocks, or mixers between their projections, keep their input only.

    The rest is computed again in the backward pass, to the same bits.
    """
    from torch.utils.checkpoint import checkpoint

    for block in model.blocks:
        if config.recompute == "block":
            block.forward = _again(block.forward, checkpoint)
        elif config.recompute == "scan":
            for module in block.modules():
                if isinstance(module, Mamba2Mixer):
                    module.mix = _again(module.mix, checkpoint)  # type: ignore[method-assign]


def _again(forward: Callable[..., Any], checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return call


def _group_of_one() -> None:
    """A group of processes for an engine that wants one, where nobody started several."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo",
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]
            rank=0,
            world_size=1,
        )


def _same(shape: torch.Size, whole: Tensor) -> None:
    if tuple(shape) != tuple(whole.shape):
        raise ValueError(f"a tensor is {tuple(whole.shape)} and should be {tuple(shape)}")

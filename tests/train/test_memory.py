"""What training takes is what was predicted: counted by torch's allocator, at tiny sizes."""

from dataclasses import replace

import pytest

from benchmarks.memory import ALLOWED, Case, counted
from statewise.model import Mamba2Config
from statewise.model.cpu import scan
from statewise.train import memory
from statewise.train.config import LoraConfig, ParallelConfig
from statewise.train.memory import training_memory

MODEL = Mamba2Config(
    d_model=96, n_layer=3, d_state=32, headdim=32, ngroups=1, chunk_size=32, vocab_size=256
)
GROUPS = replace(MODEL, ngroups=2, n_layer=2, chunk_size=64, tie_embeddings=False)
WIDE = replace(MODEL, d_model=256)
LARGE_HEAD = replace(MODEL, n_layer=1, vocab_size=4096)
CASES = [
    Case(MODEL, 512),
    Case(MODEL, 512, recompute="block"),
    Case(GROUPS, 512, bfloat16=True, rows=2),
    Case(GROUPS, 512, bfloat16=True, rows=2, recompute="block"),
    Case(LARGE_HEAD, 256),
    Case(LARGE_HEAD, 2304),
    Case(MODEL, 512, kernels="torch", recompute="block"),
    Case(GROUPS, 512, kernels="torch"),
    Case(GROUPS, 256, kernels="torch", bfloat16=True, rows=2, recompute="block"),
    Case(GROUPS, 256, engine="fsdp2", rows=2, recompute="block"),
    Case(MODEL, 512, recompute="scan"),
    Case(GROUPS, 512, kernels="torch", bfloat16=True, recompute="scan"),
    Case(GROUPS, 128, optimiser="muon", recompute="block"),
    Case(WIDE, 256, bfloat16=True, lora=LoraConfig(rank=8)),
    Case(WIDE, 256, rows=2, lora=LoraConfig(rank=8), recompute="block"),
    Case(WIDE, 256, lora=LoraConfig(rank=8, base="nf4"), recompute="block"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.told)
def test_the_peak_of_a_step_is_predicted_within_a_tenth(case):
    if case.lora.rank:
        pytest.importorskip("peft", reason="peft is not installed: pip install 'statewise[lora]'")
    if case.lora.base == "nf4":
        why = "bitsandbytes is not installed: pip install 'statewise[qlora]'"
        pytest.importorskip("bitsandbytes", reason=why)
    assert case.predicted() == pytest.approx(counted(case), rel=ALLOWED)


def test_the_kernels_keep_and_work_on_what_is_counted_with():
    assert scan.CHUNK * scan.SPAN == memory.CPU_SPAN
    triton = pytest.importorskip("statewise.model.triton.scan")
    assert triton.CHUNK == memory.TRITON_CHUNK
    assert triton.TILES[triton.torch.bfloat16].rows == memory.TRITON_TILE


def of(world=1, kernels="triton", rows=8, **parallel):
    """Of the model with rows of 2,048 tokens."""
    case = Case(MODEL, 2048, rows=rows)
    train = replace(case.train, parallel=ParallelConfig(**parallel))
    return training_memory(MODEL, train, kernels=kernels, bfloat16=True, world=world)


def line(found, name):
    return sum(part.nbytes for part in found.lines if part.name == name)


@pytest.mark.parametrize("kernels", ["torch", "cpu", "triton"])
def test_blocks_that_are_computed_again_keep_their_input_alone(kernels):
    found = of(kernels=kernels, recompute="block")
    hidden = 2048 * MODEL.d_model
    assert line(found, "activations that are kept") <= (MODEL.n_layer + 3) * 4 * hidden
    assert found.device < of(kernels=kernels).device


def test_what_an_engine_holds_in_pieces_shrinks_with_the_processes():
    weights = 4 * MODEL.num_params
    assert line(of(8, engine="ddp"), "moments") == 2 * weights
    assert line(of(8, engine="ddp"), "weights") == weights
    assert line(of(8, engine="zero2"), "moments") == pytest.approx(weights / 4, rel=1e-3)
    assert line(of(8, engine="zero2"), "weights") == pytest.approx(9 / 8 * weights, rel=1e-3)
    for engine in ("zero3", "fsdp2"):
        found = of(8, engine=engine)
        assert line(found, "weights") == pytest.approx(weights / 8, rel=1e-3)
        assert line(found, "moments") == pytest.approx(weights / 4, rel=1e-3)


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp2"])
def test_what_is_offloaded_lies_in_the_hosts_memory(engine):
    here, there = of(2, engine=engine), of(2, engine=engine, offload=True)
    assert here.host == 0
    assert there.host >= 8 * MODEL.num_params / 2
    assert there.device < here.device
    assert line(there, "moments") == 0 or engine == "fsdp2"


def test_processes_that_share_a_row_hold_their_part_of_it():
    quarter = replace(Case(MODEL, 512, rows=4).train, parallel=ParallelConfig(recompute="block"))
    alone = training_memory(MODEL, quarter, kernels="triton", bfloat16=True, world=4)
    assert of(4, rows=1, recompute="block", context=4) == alone


def test_weights_that_are_adapted_lie_as_they_are_and_adapters_alone_are_remembered():
    train = Case(WIDE, 2048).train
    held = {}
    for base in ("whole", "nf4"):
        lora = replace(train, lora=LoraConfig(rank=8, base=base))
        found = training_memory(WIDE, lora, kernels="triton", bfloat16=True)
        held[base] = line(found, "weights")
        moments = line(found, "moments")
    each = 8 * (WIDE.d_model + WIDE.d_in_proj + WIDE.d_inner + WIDE.d_model)
    assert moments == 2 * 4 * WIDE.n_layer * each
    numbers = WIDE.n_layer * WIDE.d_model * (WIDE.d_in_proj + WIDE.d_inner)
    # By hand: half a byte and its scales, in place of two.
    assert held["whole"] - held["nf4"] == pytest.approx((2 - 0.5159) * numbers, rel=1e-3)

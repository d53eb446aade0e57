"""Tiny models with weights that hide nothing: every parameter random, none symmetric."""

import torch
from hypothesis import strategies as st

from statewise.model import Mamba2Config, Mamba2LM, State

SEEDS = st.integers(0, 2**31 - 1)


BACKENDS = ("torch", "cpu")


@st.composite
def configs(draw, *, backend="torch", ngroups=(1, 2, 8), tied=(False, True), bias=(False, True)):
    """Small configurations in which every size differs from its neighbours now and then.

    Those for the compiled kernels have widths that are multiples of 16.
    """
    unit = 16 if backend == "cpu" else 1
    g = draw(st.sampled_from(ngroups))
    heads = g * draw(st.integers(1, 2))
    headdim = unit * draw(st.sampled_from([1, 2, 3] if unit > 1 else [2, 3, 4]))
    expand = draw(st.sampled_from([e for e in (1, 2) if heads * headdim % (e * unit) == 0]))
    return Mamba2Config(
        d_model=heads * headdim // expand,
        n_layer=draw(st.integers(1, 3)),
        d_state=unit * draw(st.integers(1, 3 if unit > 1 else 6)),
        headdim=headdim,
        ngroups=g,
        expand=expand,
        d_conv=draw(st.integers(2, 5)),
        chunk_size=draw(st.sampled_from([1, 3, 4, 8, 16])),
        vocab_size=draw(st.integers(5, 40)),
        tie_embeddings=draw(st.sampled_from(tied)),
        conv_bias=draw(st.booleans()),
        bias=draw(st.sampled_from(bias)),
    )


def generator(seed):
    return torch.Generator().manual_seed(seed)


def tiny_model(config, seed=0, backend="auto"):
    """A model whose every parameter is random, norms, biases, A, D and dt included."""
    model = Mamba2LM(config, backend=backend).eval()
    rng = generator(seed)

    def normal(p, mean=0.0, std=1.0):
        p.copy_(mean + std * torch.randn(p.shape, generator=rng))

    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.log(0.5 + 15 * torch.rand(p.shape, generator=rng)))
            elif name.endswith("dt_bias"):
                normal(p, -2.0)
            elif name.endswith("D") or "conv1d.weight" in name:
                normal(p, 0.0, 0.7)
            elif name.endswith("bias"):
                normal(p, 0.0, 0.3)
            elif "norm" in name:
                normal(p, 1.0, 0.3)
            elif "embeddings" in name:
                normal(p)
            else:
                normal(p, 0.0, p.shape[1] ** -0.5)
    return model


def tokens(config, b, l, seed=0):
    return torch.randint(config.vocab_size, (b, l), generator=generator(seed))


def random_state(config, batch, seed=0):
    """A state as some earlier text might have left it."""
    rng = generator(seed)
    zero = State.zeros(config, batch)
    conv, ssm = (torch.randn(t.shape, generator=rng) for t in (zero.conv, zero.ssm))
    return State(conv, ssm, torch.randint(1000, (batch,), generator=rng))


def moved(state, device):
    """The same state on another device."""
    return State(state.conv.to(device), state.ssm.to(device), state.position.to(device))


def copied(state):
    return State(state.conv.clone(), state.ssm.clone(), state.position.clone())


def row(state, i):
    """The state of one sequence of the batch."""
    return state.select(torch.tensor([i]))

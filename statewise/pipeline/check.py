"""What a recipe will need, told without training anything."""

from __future__ import annotations

from statewise.recipe import Recipe

MIB = 1 << 20


def describe(recipe: Recipe) -> str:
    """Parameters, state, tokens a step and an estimate of memory, as lines of text."""
    r, m = recipe, recipe.model
    lines = [
        f"{r.name}: recipe {r.sha256[:8]}",
        f"parameters             {m.num_params:,}",
        f"state per sequence     {m.state_bytes():,} bytes at every length "
        f"(16-bit model: {m.state_bytes(conv_bytes=2):,})",
        f"forward pass           {m.flops_per_token() / 1e6:,.2f} MFLOP a token",
        f"tokens per step        {r.train.batch_tokens:,} at most, in rows of "
        f"{r.train.row_tokens:,}",
    ]
    for phase in r.train.phases:
        sources = ", ".join(s.path for s in phase.sources)
        lines.append(
            f"phase {phase.name:<16} {phase.tokens:,} tokens, at least "
            f"{-(-phase.tokens // r.train.batch_tokens):,} steps, from {sources}"
        )
    weights, activations = training_bytes(recipe)
    states = r.engine.slots * m.state_bytes()
    lines += [
        f"training memory        about {(weights + activations) / MIB:,.0f} MiB: "
        f"{weights / MIB:,.0f} for weights, gradients and moments, "
        f"{activations / MIB:,.0f} for one row's activations",
        f"evaluation memory      about {(4 * m.num_params + states) / MIB:,.0f} MiB: "
        f"{r.engine.slots} slots of state and the weights",
    ]
    return "\n".join(lines)


def training_bytes(recipe: Recipe) -> tuple[int, int]:
    """Bytes of training: (weights, gradients and AdamW's moments; activations of one row).

    Activations are what autograd keeps, counted from the layer's formulas: the projection's
    output, the convolution's input and output, the chunk matrices, and the residual stream.
    """
    m, row = recipe.model, recipe.train.row_tokens
    fixed = 4 * 4 * m.num_params
    per_token = (
        2 * m.d_in_proj  # the projection and its split
        + 5 * m.conv_dim  # before and after the convolution, its gate, in chunks
        + 9 * m.d_inner  # x dt, y in chunks and in rows, gate, norm
        + 4 * m.nheads * m.chunk_size  # decay, its exponential, C.B and their product
        + 3 * m.nheads * m.headdim * m.d_state // m.chunk_size  # chunk states
        + 6 * m.d_model  # residual, norm
    )
    logits = 3 * row * m.vocab_size * 4
    return fixed, 4 * row * per_token * m.n_layer + logits

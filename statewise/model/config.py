"""The shape of a Mamba-2 model, and what follows from it by arithmetic. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from statewise.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mamba2Config:
    """Sizes of a Mamba-2 (SSD) language model, in the names of `mamba_ssm`.

    Attributes:
        d_model: width of the residual stream (Hugging Face: `hidden_size`).
        n_layer: number of blocks.
        d_state: N, the state's size per channel (`state_size`).
        headdim: P, channels a head (`head_dim`).
        ngroups: G, groups that share B and C (`n_groups`).
        expand: inner width over `d_model`.
        d_conv: K, taps of the causal convolution (`conv_kernel`).
        chunk_size: tokens a chunk in training and prefill. Changes speed and rounding only.
        vocab_size: rows of the embedding.
        tie_embeddings: whether the head shares the embedding's weight.
        norm_eps: epsilon of every RMS norm.
        dt_min: lower end of the step sizes drawn at initialisation (`time_step_min`).
        dt_max: upper end of the step sizes drawn at initialisation (`time_step_max`).
        dt_limit_low: lower clamp of dt in every pass (`time_step_limit[0]`).
        dt_limit_high: upper clamp of dt in every pass (`time_step_limit[1]`); 0 means none.
        conv_bias: whether the convolution has a bias (`use_conv_bias`).
        bias: whether the two projections have a bias (`use_bias`).
    """

    d_model: int = 256
    n_layer: int = 4
    d_state: int = 64
    headdim: int = 32
    ngroups: int = 1
    expand: int = 2
    d_conv: int = 4
    chunk_size: int = 32
    vocab_size: int = 2048
    tie_embeddings: bool = True
    norm_eps: float = 1e-5
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_limit_low: float = 0.0
    dt_limit_high: float = 0.0
    conv_bias: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not divide. Raises `ConfigError` naming the key."""
        sizes = "d_model n_layer d_state headdim ngroups expand chunk_size vocab_size"
        for name in sizes.split():
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, found {getattr(self, name)}")
        if self.d_conv < 2:
            raise ConfigError(f"d_conv: must be at least 2, found {self.d_conv}")
        if self.d_inner % self.headdim:
            raise ConfigError(
                f"headdim: {self.headdim} does not divide expand * d_model = {self.d_inner}"
            )
        if self.nheads % self.ngroups:
            raise ConfigError(f"ngroups: {self.ngroups} does not divide the {self.nheads} heads")

    @property
    def d_inner(self) -> int:
        """Width inside a mixer: expand * d_model."""
        return self.expand * self.d_model

    @property
    def nheads(self) -> int:
        """H, heads a layer."""
        return self.d_inner // self.headdim

    @property
    def conv_dim(self) -> int:
        """Channels that pass the convolution: x, B and C."""
        return self.d_inner + 2 * self.ngroups * self.d_state

    @property
    def d_in_proj(self) -> int:
        """Rows of the input projection: [z | x | B | C | dt]."""
        return self.d_inner + self.conv_dim + self.nheads

    @property
    def num_params(self) -> int:
        """Parameters, the tied head counted once."""
        mixer = (
            self.d_model * self.d_in_proj
            + self.conv_dim * self.d_conv
            + (self.conv_dim if self.conv_bias else 0)
            + 3 * self.nheads
            + self.d_inner
            + self.d_inner * self.d_model
            + ((self.d_in_proj + self.d_model) if self.bias else 0)
        )
        embeddings = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        return self.n_layer * (mixer + self.d_model) + self.d_model + embeddings

    def state_bytes(self, conv_bytes: int = 4, ssm_bytes: int = 4) -> int:
        """Bytes of memory a sequence needs, at any length.

        Args:
            conv_bytes: bytes of one number of the convolution's window (the model's dtype).
            ssm_bytes: bytes of one number of the recurrent state (float32 unless stated).
        """
        conv = self.conv_dim * (self.d_conv - 1) * conv_bytes
        ssm = self.nheads * self.headdim * self.d_state * ssm_bytes
        return self.n_layer * (conv + ssm)

    def flops_per_token(self) -> int:
        """Floating-point operations of one token's forward pass, matrix products only."""
        linear = self.d_model * (self.d_in_proj + self.d_inner)
        q, n, g = self.chunk_size, self.d_state, self.ngroups
        ssd = q * (g * n + self.d_inner) + 2 * n * self.d_inner
        return 2 * (self.n_layer * (linear + ssd) + self.d_model * self.vocab_size)

    def train_flops_per_token(self) -> int:
        """Of training on one token: the backward pass is counted as two forward passes.

        What a kernel computes again in the backward pass is not counted.
        """
        return 3 * self.flops_per_token()

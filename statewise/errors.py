"""The errors a person may meet. Each message names the key, line, file or tensor and what to do.

StatewiseError
├── ConfigError       a recipe key that is unknown, mistyped or inconsistent
├── DataError         a missing, torn or mistyped data file; a tokenizer that does not fit
├── CheckpointError   a checkpoint that is missing, corrupt or of a foreign architecture
├── SandboxError      this machine offers no isolation, or the sandbox itself broke
└── RunError          a run folder in use by another process, a full disk, an unusable stage
    └── DivergedError     a training whose loss is no longer a number
"""


class StatewiseError(Exception):
    """Anything the command line prints as one message without a traceback."""


class ConfigError(StatewiseError):
    """A recipe key that is unknown, mistyped or inconsistent with another."""


class DataError(StatewiseError):
    """A data file or tokenizer that is missing, torn, or does not fit."""


class CheckpointError(StatewiseError):
    """A checkpoint that is missing, corrupt, or of a foreign architecture."""


class SandboxError(StatewiseError):
    """No isolation is to be had on this machine, or the sandbox itself failed."""


class RunError(StatewiseError):
    """A run folder that cannot be used as asked."""


class DivergedError(RunError):
    """A training whose loss or gradient is no longer a number."""

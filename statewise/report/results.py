"""The one value the report is made from: plain JSON, gathered from the files of a run folder."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from statewise.errors import DataError

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunResults:
    """Everything a report may say about one run.

    Every part but the first four may be empty or None, and so may every key inside a part: the
    report then says "not measured in this run". Shares are in 0..1, times in seconds, memory in
    bytes. `interval` is always a 95 % interval `[low, high]`.

    Attributes:
        name: the recipe's name.
        recipe_toml: the resolved recipe, every default written out.
        recipe_sha256: the hash of that text.
        seed: the run's seed.
        wall_s: the whole run, from nothing to the report.
        started_at: any text; shown as it is.
        commit: the source revision, if known.
        versions: `{"python": "3.12.1", "torch": ..., ...}`.
        device: `{"cpu": model name, "cores", "threads", "memory_bytes", "gpu": name or None}`.
        stages: `{stage: {"wall_s", "skipped"}}`; skipped: its inputs had not changed, and
            `wall_s` is what it took when it last ran.
        model: `{"parameters", "state_bytes_per_sequence", "config": {...}}`.
        synth: `{"funnel": [{"stage", "math", "code"}], "judges": {...}, "held_out": {set: count},
            "contamination": {...}, "examples": [{"concepts": [...], "level", "rationale",
            "statement", "trace", "answer"}]}`. `judges` and `contamination` are shown key by key.
        train: `{"phases": [{"name", "tokens", "steps", "wall_s", "tokens_per_s", "final_loss"}],
            "curve": [{"step", "tokens", "loss", "lr", "phase", "tokens_per_s"}]}`. `tokens` of a
            curve point counts from the beginning of the training.
        eval: `{set: {"n_problems", "n_samples", "pass_at_1", "stderr", "interval",
            "pass_at_k": {k: share}, "majority", "outcomes": {outcome: count}, "mean_tokens",
            "sampling": {...}}}` for the model at the end of its training. `n_samples` counts
            all samples of the set. Other keys are kept in `report.json` and not shown.
        eval_by_phase: `{phase: {set: as in eval}}`, in the order of the phases.
        claims: `{"architecture" | "curriculum" | "efficiency": {"statement", "held": bool or None,
            "reason", "seeds": [...], "figures": {...}}}` with these figures:
            architecture `{"parameters": {"statewise", "transformer"}, "tokens",
            "pass_at_1": [{"seed", "set", "statewise", "transformer"}],
            "difference": [{"set", "mean", "interval"}]}` (statewise minus transformer, paired);
            curriculum `{"tokens": {"phase 1", "phase 1+2", "phase 2 alone"},
            "pass_at_1": [{"seed", "set", "phase 1", "phase 1+2", "phase 2 alone"}],
            "difference": [{"set", "mean", "interval"}]}` (phase 1+2 minus phase 2 alone, paired);
            efficiency `{"rows": [{"length", "batch", "statewise_tokens_per_s",
            "transformer_tokens_per_s", "statewise_state_bytes", "transformer_kv_bytes"}]}`, the
            bytes for one sequence. Any other figure that is a plain value is shown by its name.
        samples: `[{"set", "prompt", "completion", "outcome", "reference"}]`.
    """

    name: str
    recipe_toml: str
    recipe_sha256: str
    seed: int
    wall_s: float | None = None
    started_at: str | None = None
    commit: str | None = None
    versions: Json = field(default_factory=dict)
    device: Json = field(default_factory=dict)
    stages: Json = field(default_factory=dict)
    model: Json = field(default_factory=dict)
    synth: Json = field(default_factory=dict)
    train: Json = field(default_factory=dict)
    eval: Json = field(default_factory=dict)
    eval_by_phase: Json = field(default_factory=dict)
    claims: Json = field(default_factory=dict)
    samples: list[Json] = field(default_factory=list)

    @classmethod
    def from_json(cls, value: Json, where: str = "results") -> RunResults:
        """Build results from parsed JSON; `null` for a part is the same as leaving it out.

        Raises:
            DataError: a field is unknown or missing, or a part is not of the kind it should be.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for key in value:
            if key not in fields:
                raise DataError(f"{where}: a report has no field {key!r}")
        given: Json = {}
        for name, f in fields.items():
            part = value.get(name)
            needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if part is None:
                if needed:
                    raise DataError(f"{where}: the report needs the field {name!r}")
                continue
            kind = _KINDS[str(f.type).partition("[")[0]]
            if not isinstance(part, kind) or isinstance(part, bool):
                raise DataError(f"{where}.{name}: expected {f.type}, found {part!r}")
            given[name] = part
        return cls(**given)


# The annotations of the fields above, as `isinstance` wants them.
_KINDS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "str | None": str,
    "int": int,
    "float | None": (int, float),
    "Json": dict,
    "list": list,
}


def finite(results: RunResults) -> tuple[RunResults, tuple[str, ...]]:
    """The results with every NaN and infinity replaced by None, and the keys where they stood.

    JSON has no such numbers, and a page that shows `nan` has said nothing. The keys are reported,
    so that a diverged training does not look like one that was never measured.

    Raises:
        DataError: a value is not JSON at all; the message names its key.
    """
    lost: list[str] = []

    def clean(value: Any, key: str) -> Any:
        if isinstance(value, str):
            return value.encode(errors="replace").decode()  # half a surrogate pair has no bytes
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            if math.isfinite(value):
                return value
            lost.append(key)
            return None
        if isinstance(value, dict):
            return {
                clean(str(k), key): clean(v, f"{key}.{k}" if key else str(k))
                for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [clean(v, f"{key}[{i}]") for i, v in enumerate(value)]
        raise DataError(f"report: {key} is a {type(value).__name__}, which JSON cannot hold")

    cleaned = clean({f.name: getattr(results, f.name) for f in dataclasses.fields(results)}, "")
    return RunResults(**cleaned), tuple(lost)

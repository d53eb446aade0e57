"""Who else is told how a training goes: TensorBoard, Weights & Biases and others, by accelerate."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from statewise.errors import ConfigError

PROJECT = "statewise"


def check(names: Sequence[str]) -> None:
    """Refuse what nobody could be told by.

    Raises:
        ConfigError: a name that accelerate does not know, or one whose package is missing.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"train.trackers: {name!r} is none of {known}")
        if name not in available:
            raise ConfigError(
                f"train.trackers: the package of {name!r} cannot be imported: pip install {name}"
            )


class Trackers:
    """The trackers of one training; whoever is none of its own process has none.

    Args:
        names: by accelerate's names; see `check`.
        folder: the training's; files of trackers that write some go below its `trackers`.
        label: the training's name.
        step: how many steps have been taken: what was told of later ones is forgotten, where the
            tracker can.
    """

    def __init__(self, names: Sequence[str], folder: Path, label: str, step: int) -> None:
        check(names)
        self._trackers = []
        for name in names:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            kind: Any = LOGGER_TYPE_TO_CLASS[name]
            more = _more(name, folder, label, step)
            where = (folder / "trackers",) if kind.requires_logging_directory else ()
            tracker = kind(PROJECT, *where, **more)
            tracker.start()
            self._trackers.append(tracker)

    def tell(self, values: Mapping[str, float], step: int) -> None:
        """Some numbers of a step."""
        for tracker in self._trackers:
            tracker.log(dict(values), step=step)

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *exc: object) -> None:
        for tracker in self._trackers:
            tracker.finish()


def _more(name: str, folder: Path, label: str, step: int) -> dict[str, Any]:
    if name == "tensorboard":
        return {"purge_step": step + 1}
    if name == "wandb":  # a training that goes on is the same run there
        same = f"{zlib.crc32(str(folder.resolve()).encode()):08x}"
        return {"name": label, "id": f"{PROJECT}-{same}", "resume": "allow", "dir": str(folder)}
    return {}

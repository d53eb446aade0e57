"""`statewise check`: what a training takes on its devices, whether it fits, what would make it."""

import re

import pytest

from statewise.cli import main
from statewise.errors import ConfigError
from statewise.pipeline.check import describe, device_bytes
from statewise.recipe import load_recipe

CARD = 80 * 10**9
WHOLE = ["train.parallel.engine=ddp", "train.parallel.offload=false"]
WHOLE += ["train.parallel.recompute=none"]


def proposed(text):
    """The switches that are proposed: what is set, the bytes of a GPU, whether it fits."""
    found = re.findall(r"--set (\S+) +([\d,.]+) GB.*: (fits|does not fit)", text)
    return [(key, float(number.replace(",", "")), fits == "fits") for key, number, fits in found]


@pytest.mark.parametrize("name", ["7b", "7b-math"])
def test_the_published_run_fits_eight_gpus_of_80_gb(name):
    text = describe(load_recipe(name), world=8, device_memory=CARD)
    assert "64 rows of 20,480, 8 for each of 8 processes" in text
    assert "engine zero2, offload, recompute block" in text
    assert "80.0 GB: fits" in text
    assert "host memory" in text
    assert not proposed(text)


def test_what_would_make_it_fit_is_told_step_by_step_until_it_does():
    text = describe(load_recipe("7b", WHOLE), world=8, device_memory=CARD)
    assert "80.0 GB: does not fit" in text
    steps = proposed(text)
    assert [key for key, _, _ in steps] == [
        "train.parallel.recompute=block",
        "train.parallel.engine=zero2",
        "train.parallel.offload=true",
    ]
    assert [fits for _, _, fits in steps] == [False, False, True]
    figures = [figure for _, figure, _ in steps]
    assert figures == sorted(figures, reverse=True)


def test_the_switches_that_are_proposed_are_keys_of_the_recipe_and_do_what_is_said():
    first = load_recipe("7b", WHOLE)
    keys = [key for key, _, _ in proposed(describe(first, world=8, device_memory=CARD))]
    changed = dict(w.split("=") for w in WHOLE) | dict(key.split("=") for key in keys)
    then = load_recipe("7b", [f"{key}={value}" for key, value in changed.items()])
    assert "80.0 GB: fits" in describe(then, world=8, device_memory=CARD)


def test_what_nothing_makes_fit_is_told_so():
    text = describe(load_recipe("7b"), world=1, device_memory=CARD // 10)
    assert "nothing of these: more devices, or a smaller model" in text
    assert not any(fits for _, _, fits in proposed(text))


def test_without_a_devices_memory_there_are_figures_and_no_verdict():
    text = describe(load_recipe("mini"))
    assert "training memory        about" in text
    assert "fit" not in text


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("80GB", 80 * 10**9), ("24 GiB", 24 << 30), ("1.5gb", 1_500_000_000), ("512MiB", 512 << 20)],
)
def test_a_devices_memory_is_read_as_people_write_it(text, nbytes):
    assert device_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["80 apples", "80", "GB", "", "-80GB", "0GB", "8O GB", "1e9GB"])
def test_what_is_no_devices_memory_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"--device-memory: expected a number .* such as 80GB"):
        device_bytes(text)


def test_the_command_refuses_what_is_no_memory_and_no_number_of_processes(capsys):
    assert main(["check", "mini", "--device-memory", "80 apples"]) == 1
    assert "found '80 apples'" in capsys.readouterr().err
    assert main(["check", "mini", "--device-memory", ""]) == 1
    assert main(["check", "mini", "--world", "0"]) == 1
    assert "--world: must be at least 1, found 0" in capsys.readouterr().err

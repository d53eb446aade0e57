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


def changed(first, found):
    """The recipe `7b` with settings, and with what is proposed in their place."""
    settings = dict(s.split("=") for s in first) | dict(key.split("=") for key, _, _ in found)
    return load_recipe("7b", [f"{key}={value}" for key, value in settings.items()])


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
    found = proposed(describe(load_recipe("7b", WHOLE), world=8, device_memory=CARD))
    assert "80.0 GB: fits" in describe(changed(WHOLE, found), world=8, device_memory=CARD)


def test_what_nothing_makes_fit_is_told_so():
    text = describe(load_recipe("7b"), world=1, device_memory=CARD // 10)
    assert "nothing of these: more devices, or a smaller model" in text
    assert not any(fits for _, _, fits in proposed(text))


ADAPTERS = [*WHOLE, "train.lora.rank=16", "train.batch_tokens=20480"]


def test_adapters_of_7b_fit_a_card_of_24_gb_with_what_is_proposed_and_no_engine_that_refuses_them():
    text = describe(load_recipe("7b", ADAPTERS), world=1, device_memory=24 * 10**9)
    assert "adapters over whole weights" in text
    steps = proposed(text)
    assert [key for key, _, _ in steps][:2] == [
        "train.parallel.recompute=block",
        "train.lora.base=nf4",
    ]
    assert steps[-1][2]
    assert not any("zero" in key or "offload" in key for key, _, _ in steps)


@pytest.mark.parametrize(
    "overrides",
    [["train.optimiser=muon"], ["train.parallel.context=2"], ["train.lora.rank=16"]],
)
def test_what_an_engine_refuses_is_not_proposed(overrides):
    first = [*WHOLE, *overrides]
    found = proposed(describe(load_recipe("7b", first), world=8, device_memory=CARD // 8))
    assert found
    changed(first, found)  # it can be asked for


def test_mixers_that_compute_again_keep_less_than_all_and_more_than_their_block():
    kept = []
    for how in ("none", "scan", "block"):
        text = describe(load_recipe("7b", [f"train.parallel.recompute={how}"]), world=8)
        kept.append(float(re.search(r"about ([\d,.]+) GB per", text)[1].replace(",", "")))
    assert kept[0] > kept[1] > kept[2]


def test_processes_that_do_not_divide_among_rows_are_refused():
    recipe = load_recipe("7b", ["train.parallel.context=2"])
    assert "16 for each 2 of 8 processes" in describe(recipe, world=8)
    with pytest.raises(ConfigError, match="no multiple of the 2 that share a row"):
        describe(recipe, world=3)


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

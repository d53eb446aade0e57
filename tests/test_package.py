"""The package's own door: cheap to import, complete, and of one version."""

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import statewise

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "huggingface_hub")


def test_importing_the_package_imports_nothing_heavy():
    program = f"""
import sys, statewise
assert statewise.__version__ and callable(statewise.load) and dir(statewise)
assert not set(sys.modules) & set({HEAVY!r}), set(sys.modules) & set({HEAVY!r})
statewise.ScriptedSampler, statewise.SamplingParams, statewise.Prompt, statewise.Sampler
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_every_public_name_is_there_and_the_list_is_sorted():
    assert statewise.__all__ == sorted(statewise.__all__)
    assert set(statewise.__all__) <= set(dir(statewise))
    for name in statewise.__all__:
        home = importlib.import_module(statewise._HOMES.get(name, "statewise"))
        assert getattr(statewise, name) is vars(home)[name]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'statewise' has no attribute 'Attention'"):
        statewise.Attention  # noqa: B018


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert statewise.__version__ == project["version"]


def test_every_extra_that_a_requirement_names_is_one_of_the_package():
    """As spelled: pip warns of any other, and installs nothing for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.extras:
            provided = metadata(requirement.name).get_all("Provides-Extra", [])
            assert requirement.extras <= set(provided), requirement

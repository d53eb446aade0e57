import shutil

import pytest
from small_run import Forker, command, write_recipe


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """(recipe, folder) of one undisturbed run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder)
    code, _, err = command("run", recipe, "--out", folder / "run")
    assert code == 0, err
    return recipe, folder / "run"


@pytest.fixture
def run(finished_run, tmp_path):
    """(recipe, folder) of a copy of the finished run, to be damaged and continued."""
    recipe, folder = finished_run
    shutil.copytree(folder, tmp_path / "run")
    return recipe, tmp_path / "run"


@pytest.fixture(scope="session")
def forker():
    forker = Forker()
    yield forker
    forker.close()

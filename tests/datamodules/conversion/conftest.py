"""The sources that the conversion's tests share; none of them may change one."""

from pathlib import Path

import pytest

from tests.datamodules.made_sources import Pairs, made_pairs, write_group_folders


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """Three groups of 18 pairs, about 2 MB a group."""
    return made_pairs(count=18, side=160)


@pytest.fixture(scope="session")
def source(pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs as group folders."""
    return write_group_folders(tmp_path_factory.mktemp("source"), pairs)

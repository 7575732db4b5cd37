"""One cluster for all tests of the folder; each finds and leaves it empty."""

from collections.abc import Iterator

import pytest
from cluster.slurm import Slurm, lacking


@pytest.fixture(scope="session")
def cluster() -> Iterator[Slurm]:
    """A running SLURM. Skips with what to install where there can be none."""
    if reason := lacking():
        pytest.skip(reason)
    slurm = Slurm()
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def slurm(cluster: Slurm) -> Iterator[Slurm]:
    yield cluster
    cluster.clear()

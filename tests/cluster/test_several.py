"""Runs of several processes: on one node, and over two, also when they are put back in between."""

import json

import pytest
from cluster import jobs
from helpers.cli import KGA, TINY, kga, results

pytestmark = pytest.mark.cluster
NO_DROPOUT = tuple(f"model.config.{name}=0" for name in ("dropout", "attention_dropout", "seq_classif_dropout"))
RUN = (*TINY, *KGA, *NO_DROPOUT, "forget.size=12", "optim.epochs=20")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """The result of one process."""
    output = tmp_path_factory.mktemp("alone")
    assert kga(*RUN, f"output={output}").code == 0
    return results(output)["kga"]


def test_two_processes_of_a_node_have_the_result_of_one(slurm, tmp_path, alone):
    outcome = jobs.kga(slurm, tmp_path, *RUN, "trainer.devices=2", "launcher.gpus=null", launcher="slurm_multinode")
    assert outcome.code == 0, (outcome, jobs.log(tmp_path))
    _same(results(tmp_path)["kga"], alone)


def test_processes_of_two_nodes_go_on_together_after_a_requeue(slurm, tmp_path, alone):
    nodes = ("trainer.num_nodes=2", "trainer.devices=1", "launcher.gpus=null")
    command = jobs.Command(slurm, tmp_path, *RUN, *nodes, launcher="slurm_multinode")
    job = command.job()
    assert len(jobs.freeze(slurm, tmp_path, job)) == 2
    slurm.ask("scontrol", "requeue", job)
    outcome = command.ends()
    assert outcome.code == 0, (outcome, jobs.log(tmp_path))
    assert jobs.log(tmp_path).count("going on from the checkpoint") == 1
    assert jobs.trained(tmp_path)["A_D on D"] == [100]
    _same(results(tmp_path)["kga"], alone)


def _same(found: dict, expected: dict) -> None:
    """The numbers of a result within 1e-3, and its key."""
    assert found["key"] == expected["key"]
    for part in ("utility", "forgetting", "score"):
        for model, values in expected[part].items():
            for name, value in _flat(values):
                assert dict(_flat(found[part][model]))[name] == pytest.approx(value, rel=1e-3, abs=1e-3), (part, model)


def _flat(values: dict) -> list[tuple[str, float]]:
    return [(json.dumps(name), value) for name, value in values.items()]

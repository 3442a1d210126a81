"""Processes that split weights between them train as one does that has them all."""

import pytest

from .launching import ALGORITHMS, UNEVEN, assert_alike, trained

FULL = (*UNEVEN, "adapter.kind=full", "optimizer.lr=1e-4", "train.micro_batch=2", "eval.every=1")


@pytest.fixture(scope="module")
def alone(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    return folder, trained(folder, ALGORITHMS, [*tiny_sets, *FULL])


@pytest.fixture(scope="module")
def split(tiny_sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    sets = [*tiny_sets, *FULL, "speed.shard=weights"]
    return folder, trained(folder, ALGORITHMS, sets, processes=2)


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_split_weights_train_as_whole_ones_do(algo, alone, split):
    assert_alike(algo, alone, split)
    (one,), parts = alone[1][algo], [own["held"] for own in split[1][algo]]
    assert sum(parts) == one["held"] and max(parts) < 0.6 * one["held"]

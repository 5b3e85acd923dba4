"""Several processes give what one gives; two by default, four where `slow` is asked for.

In float64, so that another order of sums is all the difference there is: 1e-7, because rewards are
float32 and Adam makes much of small gradients.
"""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torchrun_checks as together

from recoach import distributed
from recoach.errors import ConfigError
from recoach.models.checkpoint import load_tensors
from recoach.models.registry import build_model
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain

NEAR = {"rtol": 1e-7, "atol": 1e-7}
DRAWS = ("drawn lightgcn", "drawn bprmf", "drawn ufrec", "whole", "interrupted")


def launch(processes, out):
    """Start processes as torchrun does and return what each has saved."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    there["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, together.__file__, str(out), str(processes)]
    running = [
        subprocess.Popen(
            command, env=os.environ | there | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    told = [process.communicate(timeout=1200)[1] for process in running]
    assert [process.returncode for process in running] == [0] * processes, "\n".join(told)
    return [torch.load(out / f"{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def both(request, tmp_path_factory):
    """Return what one process and what several come to."""
    out = tmp_path_factory.mktemp("together")
    several = launch(request.param, out)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (together.evaluator, "_STATES_AT_ONCE"),
            (together.Block, "draw"),
            (together.Block, "draw_lists"),
        ):
            patch.setattr(owner, name, getattr(owner, name))  # put back what is changed there
        patch.setattr(together, "PROCESSES", request.param)
        torch.set_default_dtype(torch.float64)
        try:
            alone = together.everything(out / "alone")
        finally:
            torch.set_default_dtype(torch.float32)
    return alone, several, out


SAME = ["judged", "losses", "crossfit"]
SAME += [f"base {kind}" for kind in together.BASES] + [f"tuned {kind}" for kind in together.TUNED]
DIVIDED = ["divided sasrec", "divided gru4rec", "divided whole"]
DIVIDED += [f"divided {kind}" for kind in together.DIVIDED_TUNED]


@pytest.mark.parametrize("name", SAME + DIVIDED)
def test_several_processes_come_to_what_one_comes_to(both, name):
    alone, several, _ = both
    assert alone[name].keys() == several[0][name].keys()
    for key, expected in alone[name].items():
        found = several[0][name][key]
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, **NEAR), (name, key, (found - expected).abs().max())


def test_ranks_and_lists_are_the_same_to_the_last_bit(both):
    alone, (first, *others), _ = both
    for found in (first, *others):
        assert all(torch.equal(found["judged"][key], own) for key, own in alone["judged"].items())


@pytest.mark.parametrize("name", [*SAME[3:], *DRAWS, *DIVIDED])
def test_all_processes_hold_the_same_weights_to_the_last_bit(both, name):
    _, (first, *others), _ = both
    weights = {key: own for key, own in first[name].items() if key.startswith("weights/")}
    assert weights
    assert all(bool(torch.isfinite(own).all()) for own in weights.values())
    for other in others:
        assert all(torch.equal(other[name][key], own) for key, own in weights.items())


@pytest.mark.parametrize("kind", ["", "divided "])
def test_an_interrupted_training_goes_on_to_the_last_bit(both, kind):
    _, (first, *_), _ = both
    whole, again = first[f"{kind}whole"], first[f"{kind}interrupted"]
    assert len(again["losses"]) < len(whole["losses"])
    assert torch.equal(whole["losses"][-len(again["losses"]) :], again["losses"])
    assert all(torch.equal(again[key], own) for key, own in whole.items() if "weights" in key)


def test_what_is_drawn_is_drawn_by_each_process_for_itself(both):
    alone, (first, *_), _ = both
    for name in DRAWS:
        assert not torch.allclose(first[name]["losses"][-3:], alone[name]["losses"][-3:], **NEAR)


def test_only_the_first_process_is_told_and_writes(both):
    _, (first, *others), out = both
    assert len(first["whole"]["losses"]) > 0
    assert all(len(other["whole"]["losses"]) == 0 for other in others)
    names = sorted(path.name for path in (out / "runs" / "whole").iterdir())
    assert names == ["best.safetensors", "last.safetensors", "model.json"]


def test_a_batch_of_fewer_rows_than_processes_is_taken_whole_by_all(both):
    _, several, _ = both
    shares = torch.stack([found["few rows"]["edges"] for found in several])
    edges = len(together.DATASET.train.values)
    assert shares[:, 0].sum() == edges - 1
    assert shares[:, 1].tolist() == [1] * len(several)


@pytest.mark.parametrize("name", ["best", "last"])
def test_the_files_of_a_divided_training_are_those_of_a_whole_one(both, name):
    _, _, out = both
    path = f"divided/whole/{name}.safetensors"
    found, alone = (load_tensors(out / place / path).tensors for place in ("runs", "alone"))
    assert found.keys() == alone.keys()
    for key, expected in alone.items():
        assert found[key].shape == expected.shape
        assert torch.allclose(found[key], expected, **NEAR), key
    if name == "last":
        moments = [key for key in found if key.endswith("exp_avg") and len(found[key]) == 31]
        averages = [key for key in found if key.endswith("average.items.weight")]
        assert len(moments) == len(averages) == 1


def test_one_process_goes_on_with_what_several_have_left_of_a_divided_training(both):
    alone, _, out = both
    args = together.DIVIDED | together.ADDED
    torch.set_default_dtype(torch.float64)
    try:
        found = together.tuned("exact", args, out / "runs/divided/left")
    finally:
        torch.set_default_dtype(torch.float32)
    assert 0 < len(found["losses"]) < len(alone["divided whole"]["losses"])
    for key, expected in alone["divided whole"].items():
        if key.startswith("weights/"):
            assert torch.allclose(found[key], expected, **NEAR), key


def test_each_process_holds_its_rows_and_their_moments(both):
    _, several, _ = both
    rows = torch.stack([found["rows"]["held"] for found in several])
    assert rows.sum(dim=0).tolist() == [together.DATASET.n_items] * 3


def test_what_is_drawn_for_the_own_share_leaves_the_common_draws_alike(both):
    _, (first, *others), _ = both
    for other in others:
        assert torch.equal(other["numbers"]["common"], first["numbers"]["common"])
        assert not torch.equal(other["numbers"]["own"], first["numbers"]["own"])


def test_every_process_has_dropout_masks_of_its_own(both):
    alone, several, _ = both
    masks = [found["interrupted"]["seeds"].tolist() for found in several]
    assert masks[0] == alone["interrupted"]["seeds"].tolist()
    assert all(len(set(step)) == len(several) for step in zip(*masks, strict=True))


def test_a_softmax_over_items_of_several_processes_is_that_of_one(both):
    alone, several, _ = both
    for found in several:
        assert found["shards"].keys() == alone["shards"].keys()
        for key, expected in alone["shards"].items():
            assert torch.allclose(found["shards"][key], expected, rtol=1e-10, atol=1e-10), key


# --- alone ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), [("lightgcn", {}), ("sasrec", {"loss": "bce"})])
def test_a_model_that_needs_all_items_at_once_is_not_divided(name, settings):
    model = build_model(name, together.DATASET, **settings)
    with pytest.raises(ConfigError, match="shard_items is for SASRec and GRU4Rec with loss = 'ce'"):
        pretrain(model, together.DATASET, PretrainConfig(shard_items=True))


def test_what_draws_needs_the_whole_catalogue():
    with pytest.raises(
        ConfigError, match="shard_items has no effect here; it belongs to estimator"
    ):
        GRPOConfig(shard_items=True, estimator="stratified")


def test_alone_everything_comes_back_as_it_was_given():
    rows, generator = torch.arange(3.0), torch.Generator()
    for given in (
        distributed.shard_rows,
        distributed.all_gather,
        distributed.all_gather_with_grad,
        distributed.all_reduce_sum,
        distributed.scale_replicated,
    ):
        assert given(rows) is rows
    assert distributed.rank_generator(generator) is generator
    assert (
        distributed.data_world_size(),
        distributed.data_rank(),
        distributed.is_main_process(),
    ) == (1, 0, True)
    assert distributed.data_sum(3) == 3

"""What a notebook shows of an object: a line of what matters, whatever its size."""

import pytest

import recoach
from recoach.experiments.run_folder import RunFolder
from recoach.serving.snapshot import ModelSnapshot
from recoach.simulation.shop import shop

SHOP = shop(n_users=60, n_items=40, seed=1)
DATASET = recoach.leave_last_out(SHOP.interactions, name="shop")
MODEL = recoach.build_model("sasrec", DATASET, dim=8)
SIZES = f"60 users, 40 items, {len(SHOP.interactions) - 120:,} train, 60 valid, 60 test"
SHOWN = {
    "shop": (SHOP, "Shop(60 customers, 40 items, 930 clicks)"),
    "log": (SHOP.interactions, "Interactions(930 of 60 users and 40 items, with timestamp)"),
    "rows": (DATASET.test, "RaggedArray(60 rows, 60 values)"),
    "dataset": (DATASET, f"Dataset(shop: {SIZES}, leave_last_out, fingerprint "),
    "model": (MODEL, "SASRec(\n  60 users, 40 items\n"),
    "trainer": (
        recoach.GRPOTrainer(MODEL, args=recoach.GRPOConfig(epochs=3), train_dataset=DATASET),
        "GRPOTrainer(SASRec on Dataset(shop: ",
    ),
    "evaluation": (recoach.evaluate(MODEL, DATASET), "Evaluation(60 states, test: "),
    "context": (recoach.RunContext(seed=4), "RunContext(seed=4, "),
    "pretraining": (recoach.PretrainConfig(epochs=3), "PretrainConfig(epochs=3, "),
    "grpo": (recoach.GRPOConfig(), "GRPOConfig(algorithm='grpo', "),
    "shelf": (
        ModelSnapshot(DATASET, {"base": MODEL}, ["x"] * 40, "v1"),
        "ModelSnapshot(base on Dataset(shop: ",
    ),
    "run": (RunFolder("runs/mine"), "RunFolder('runs/mine')"),
}


@pytest.mark.parametrize("case", SHOWN)
def test_an_object_says_what_it_is(case):
    thing, begins = SHOWN[case]
    assert repr(thing).startswith(begins)
    assert " at 0x" not in repr(thing)
    assert len(repr(thing)) < 1500


def test_a_trainer_names_the_settings_that_were_chosen():
    assert repr(SHOWN["trainer"][0]).endswith(" steps an epoch, epochs=3)")

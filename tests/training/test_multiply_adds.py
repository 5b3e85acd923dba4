"""What a training counts: states, encoder passes, multiply-adds, validations."""

import pytest
import torch
from torch.nn import functional

from recoach.data.split import leave_last_out
from recoach.models.checkpoint import load_tensors, save_tensors
from recoach.models.registry import build_model
from recoach.training import multiply_adds
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.context import RunContext
from recoach.training.loop import save_trained
from recoach.training.multiply_adds import MultiplyAddCounter
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.pretraining import pretrain
from recoach.training.progress import Progress
from recoach.training.trainer import RLTrainer
from recoach.training.work import Work
from toy_logs import block_graph

DATASET = leave_last_out(block_graph(24, 24, n_blocks=2, length=8))  # 6 training items per user
SASREC = {"dim": 8, "layers": 1, "heads": 2, "inner_dim": 16, "max_length": 6}
N_USERS, N_ITEMS, N_STATES = DATASET.n_users, DATASET.n_items, 24 * 5


def built(name, **settings):
    return build_model(name, DATASET, **settings, seed=1)


def counted(function):
    with MultiplyAddCounter() as counter:
        function()
    return counter.total


def test_scores_are_one_product_and_their_gradients_two():
    states, items = torch.randn(5, 3, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    assert counted(lambda: states @ items.T) == 5 * 7 * 3
    assert counted(lambda: (states @ items.T).square().sum().backward()) == 3 * 5 * 7 * 3


@pytest.mark.parametrize("dropout", [0.0, 0.5])  # different implementations on a CPU
def test_attention_is_two_products_and_its_gradients_four_or_five(dropout):
    query, key, value = (torch.randn(2, 2, 6, 4, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 6 * 6 * 4

    def attend():
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)

    assert counted(attend) == 2 * product
    backward = counted(lambda: attend().sum().backward()) - 2 * product
    assert backward == (4 if dropout else 5) * product  # one forms the scores again


def test_supervised_training_counts_every_state_of_every_epoch():
    config = PretrainConfig(epochs=3, batch_size=40, eval_steps=2)
    work = pretrain(built("sasrec", **SASREC), DATASET, config).work
    assert work.steps == work.updates == 9
    assert work.states == 3 * N_STATES
    assert work.encoder_passes == 3 * N_USERS  # all states of a history in one pass
    assert work.validations == 5  # after steps 2, 4, 6, 8 and 9
    assert work.measured_states == 4 * 40  # of steps 1, 2, 4 and 8
    assert work.multiply_adds == round(work.measured / 160 * 360)


def test_prefixes_with_rows_of_their_own_are_encoded_one_by_one():
    config = PretrainConfig(epochs=1, batch_size=40, rows="prefix")
    assert pretrain(built("sasrec", **SASREC), DATASET, config).work.encoder_passes == N_STATES


def test_a_model_of_interactions_has_no_encoder():
    work = pretrain(built("bprmf", dim=8), DATASET, PretrainConfig(epochs=1, batch_size=50)).work
    assert (work.states, work.encoder_passes) == (24 * 6, 0)


def finetuned(**settings):
    args = GRPOConfig(**{"batch_size": 40, "epochs": 1, "eval_steps": 100, **settings})
    context = RunContext(progress=False)
    return RLTrainer(built("bprmf", dim=8), args=args, train_dataset=DATASET, context=context)


def test_fine_tuning_counts_every_update_and_the_products_of_the_catalogue():
    result = finetuned(loss_type="grpo", num_iterations=3, beta=0).train()
    work = result.work
    assert work.updates == 3 * work.steps == 3 * result.steps
    assert work.encoder_passes == 0  # a model without histories
    assert work.validations == 2 + 3  # before and after training, and 3 points between them
    per_state = work.multiply_adds / work.states / (N_ITEMS * 8)
    assert 3 * 3 <= per_state <= 3 * 3 + 4  # three products an update; the old policy once a batch


def test_the_own_loss_beside_the_rewards_counts_as_well():
    plain, mixed = (finetuned(sft_coef=weight).train().work for weight in (0, 0.5))
    assert mixed.states > plain.states


def test_counting_does_not_change_the_weights(monkeypatch):
    def trained():
        model = built("sasrec", **SASREC, dropout=0.2)
        pretrain(model, DATASET, PretrainConfig(epochs=2, batch_size=40))
        return model.state_dict()

    counted_weights = trained()
    monkeypatch.setattr(multiply_adds, "_FLOPS", {})
    plain = trained()
    assert all(torch.equal(weights, counted_weights[name]) for name, weights in plain.items())


def test_a_training_begun_by_an_earlier_version_has_no_counts(tmp_path):
    config = PretrainConfig(epochs=1, batch_size=40)
    context = RunContext(folder=tmp_path, resume=True, progress=False)
    model = built("sasrec", **SASREC)
    assert pretrain(model, DATASET, config, context).work is not None
    path = tmp_path / "last.safetensors"
    checkpoint = load_tensors(path)
    state = {name: value for name, value in checkpoint.state.items() if name != "work"}
    save_tensors(path, checkpoint.tensors, state, model.ids)
    assert pretrain(built("sasrec", **SASREC), DATASET, config, context).work is None


def test_a_model_that_was_trained_elsewhere_has_no_counts(tmp_path):
    save_trained(tmp_path, built("sasrec", **SASREC), 0.1)
    context = RunContext(folder=tmp_path, resume=True, progress=False)
    result = pretrain(built("sasrec", **SASREC), DATASET, PretrainConfig(), context)
    assert (result.steps, result.work) == (0, None)


def test_the_counts_of_a_checkpoint_are_read_again():
    progress = Progress(step=2, work={"steps": 2, "states": 7})
    assert progress.known_work == Work(steps=2, states=7)
    assert progress.known_work.multiply_adds is None
    assert Work().multiply_adds == 0
    assert Progress(step=3, work=Work(steps=2)).known_work is None

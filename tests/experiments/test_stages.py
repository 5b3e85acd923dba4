"""The settings of the stages of a run."""

from recoach.experiments.stages import continued_training_config
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.pretrain_config import PretrainConfig


def test_the_control_has_grpos_steps_batch_size_and_learning_rate():
    base = PretrainConfig(batch_size=512, learning_rate=3e-3, hold_out=1, max_steps=9000)
    control = continued_training_config(base, GRPOConfig.paper(), steps=100, eval_steps=10)
    assert (control.max_steps, control.eval_steps, control.patience) == (100, 10, 0)
    assert (control.batch_size, control.learning_rate) == (2048, 1e-4)
    assert (control.hold_out, control.select) == (0, "last")

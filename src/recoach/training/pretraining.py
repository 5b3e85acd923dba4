"""Training of a base model: by its own loss, or on its future items."""

from recoach.data.dataset import Dataset
from recoach.errors import ConfigError
from recoach.models.base import Recommender, check_ids
from recoach.training.algorithms.sft import SFTConfig
from recoach.training.callbacks import TrainResult
from recoach.training.context import RunContext, accept_former_names
from recoach.training.loop import Loop
from recoach.training.pretrain_config import PretrainConfig
from recoach.training.reporting import reporting
from recoach.training.supervised import SupervisedTrainer, check_takes_weights, selection
from recoach.training.trainer import RLTrainer


@accept_former_names(session="context")
def pretrain(
    model: Recommender,
    dataset: Dataset,
    config: PretrainConfig | None = None,
    context: RunContext | None = None,
    *,
    start_is_candidate: bool = False,
) -> TrainResult:
    """Train a model by its own loss, or on its future items, and leave the best weights in it.

    Args:
        model: trained in place; one without weights (popularity) is left as it is.
        dataset: trains on `train`, selects on `valid`; without validation events `select` must be
            "last".
        config: settings.
        context: seed, checkpoints, protocol of the validation.
        start_is_candidate: whether the initial weights may be selected as the best.

    Raises:
        ConfigError: the model has weights and no loss to train them by; or see
            `SupervisedTrainer`.
        DataError: there are no validation targets to select on.
        ModelError: the model was built for other users or items, or the training diverged.
    """
    config, context = config or PretrainConfig(), context or RunContext()
    check_ids(model, dataset)
    if config.objective == "future":
        return _train_on_future(
            model, dataset, config, context, start_is_candidate=start_is_candidate
        )
    if config.event_weights:
        check_takes_weights(type(model))
    if not model.needs:
        if any(True for _ in model.parameters()):
            raise ConfigError(
                f"{type(model).__name__} has no loss to train it by. Pass loss= to recoach.wrap, "
                "or fine-tune the model as it is with recoach.GRPOTrainer."
            )
        return TrainResult(0, 0.0, 0, 0.0, None)
    schedule = config.schedule(start_is_candidate=start_is_candidate)
    evaluate, schedule = selection(dataset, schedule, context)
    trainer = SupervisedTrainer(model, config, dataset, context.targets)
    settings = {"seed": context.seed, "pretrain": config.model_dump(mode="json")}
    with reporting(context, "base", settings, schedule.metric) as reported:
        return Loop(trainer, schedule, evaluate, reported).run()


def _train_on_future(
    model: Recommender,
    dataset: Dataset,
    config: PretrainConfig,
    context: RunContext,
    *,
    start_is_candidate: bool,
) -> TrainResult:
    """Train all weights of a model by cross-entropy with the discounted next ten items.

    Targets, discount and smoothing are the defaults of `SFTConfig`; the temperature is 1, as with
    the model's own loss. Budget, optimiser, averaging and selection are those of `config`.

    Args:
        model: trained in place.
        dataset: as in `pretrain`.
        config: with objective `future`.
        context: as in `pretrain`.
        start_is_candidate: whether the initial weights may be selected as the best.

    Raises:
        ConfigError: the model has no weights; see also `RLTrainer`.
    """
    if not any(True for _ in model.parameters()):
        raise ConfigError(
            f"pretrain.objective = 'future' trains weights, and {type(model).__name__} has none; "
            "leave the objective out."
        )
    return RLTrainer(
        model, args=_sft_config(config, start_is_candidate), train_dataset=dataset, context=context
    ).train()


def _sft_config(config: PretrainConfig, start_is_candidate: bool) -> SFTConfig:
    """Return the settings of the training by the names of fine-tuning."""
    names = ["batch_size", "learning_rate", "weight_decay", "max_grad_norm"]
    names += ["lr_scheduler_type", "warmup_steps", "patience", "metric", "eval_steps", "max_steps"]
    names += ["select", "ema_decay", "interpolate"]
    return SFTConfig(
        start="base" if start_is_candidate else "scratch",
        temperature=1.0,
        # A control whose fine-tuning returned the base has no steps to take: `context.selected`.
        epochs=max(1, config.epochs),
        **{name: getattr(config, name) for name in names},
    )

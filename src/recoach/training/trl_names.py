"""TRL's names of settings that have another name here, or none: what to do instead."""

from collections.abc import Mapping
from typing import Final

_NO_COUNTERPART: Final = (
    "delta",
    "importance_sampling_level",
    "mask_truncated_completions",
    "min_p",
    "off_policy_mask_threshold",
    "repetition_penalty",
    "top_entropy_quantile",
    "top_k",
    "top_p",
    "use_bias_correction_kl",
    "use_vllm",
)

TRL_NAMES: Final[Mapping[str, str]] = {
    "num_train_epochs": "Set epochs.",
    "per_device_train_batch_size": "Set batch_size, which counts states.",
    "gradient_accumulation_steps": "Set batch_size, which counts states.",
    "steps_per_generation": "Set old_model_sync_steps.",
    "max_completion_length": "Set slate_length.",
    "label_smoothing_factor": "Set reward_smoothing.",
    "metric_for_best_model": "Set metric.",
    "load_best_model_at_end": 'Set select = "best", the default.',
    "sync_ref_model": "Set ref_model_sync_steps.",
    "ref_model_mixup_alpha": "Set ref_model_sync_steps: the reference becomes a copy.",
    "peft_config": "Set trainable.",
    "output_dir": "Pass context=recoach.RunContext(folder=...) to the trainer.",
    "seed": "Pass context=recoach.RunContext(seed=...) to the trainer.",
    "resume_from_checkpoint": "Pass context=recoach.RunContext(folder=..., resume=True) to the "
    "trainer.",
    "report_to": "Pass context=recoach.RunContext(report_to=...) to the trainer.",
    "disable_tqdm": "Pass context=recoach.RunContext(progress=False) to the trainer.",
    "eval_dataset": "Pass context=recoach.RunContext(eval_dataset=...) to the trainer.",
    "compute_metrics": "Pass context=recoach.RunContext(validation_metric=...) to the trainer.",
    "logging_steps": "Set eval_steps: averages are logged at every evaluation.",
} | dict.fromkeys(_NO_COUNTERPART, "It has no counterpart here; leave it out.")
"""A name of TRL and a sentence that follows it in the message, see docs/reference/trl.md."""

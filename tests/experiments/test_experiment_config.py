"""The configuration of a run: strict, layered (defaults < preset < file < --set), round-trips."""

import ast
import importlib
import inspect
import tomllib

import pytest
from pydantic import BaseModel

from recoach.data.protocol import Auto, ByRatio, ByTime, LeaveLastOut
from recoach.errors import ConfigError
from recoach.experiments.config import (
    DataConfig,
    EvaluationConfig,
    override,
    read_config,
    resolve,
)
from recoach.models.registry import MODELS
from recoach.training.algorithms.dqn import DQNConfig
from recoach.training.algorithms.grpo.config import GRPOConfig
from recoach.training.algorithms.ppo import PPOConfig
from recoach.training.algorithms.registry import ALGORITHMS
from recoach.training.pretrain_config import PretrainConfig


def read(tmp_path, text, *changes):
    (tmp_path / "a.toml").write_text(text)
    return read_config(tmp_path / "a.toml", changes)


def test_without_a_file_all_settings_are_the_defaults():
    config = read_config(None)
    assert config.finetune == GRPOConfig(mask_seen=True)
    assert config.pretrain == PretrainConfig()
    assert config.evaluation == EvaluationConfig()
    assert config.data == DataConfig()
    assert (config.model_name, config.model) == ("sasrec", MODELS["sasrec"].config())
    assert (config.seed, config.finetune_enabled) == (2020, True)


def test_the_paper_preset_sets_the_papers_settings(tmp_path):
    assert read(tmp_path, '[finetune]\npreset = "paper"\n').finetune == GRPOConfig.paper()
    assert GRPOConfig.paper() != GRPOConfig()


def test_the_file_overrides_the_preset_and_set_overrides_the_file(tmp_path):
    text = '[finetune]\npreset = "paper"\nbeta = 0.5\nepochs = 7\n'
    assert read(tmp_path, text).finetune == GRPOConfig.paper(beta=0.5, epochs=7)
    overridden = read(tmp_path, text, "finetune.beta=0.25", "finetune.horizon=4").finetune
    assert overridden == GRPOConfig.paper(beta=0.25, epochs=7, horizon=4)
    assert read(tmp_path, text, "finetune.preset=default").finetune == GRPOConfig(
        beta=0.5, epochs=7, mask_seen=True
    )


@pytest.mark.parametrize(
    ("evaluation", "grpo", "expected"),
    [
        ("all", "auto", True),
        ("none", "auto", False),
        ("recbole", "auto", "auto"),
        ("all", "false", False),
        ("none", "true", True),
    ],
)
def test_grpo_masks_as_the_evaluation_does_by_default(evaluation, grpo, expected):
    changes = [f"evaluation.mask_seen={evaluation}", f"finetune.mask_seen={grpo}"]
    assert read_config(None, changes).finetune.mask_seen == expected


def test_overrides_are_toml_values_or_bare_words():
    config = read_config(
        None,
        [
            "model.name=lightgcn",
            'data.path="a b.csv"',
            "data.columns.user_id=who",
            "evaluation.ks=[3, 7]",
            "evaluation.control=false",
            "finetune.enabled=false",
            "seed=5",
        ],
    )
    assert config.model == MODELS["lightgcn"].config()
    assert config.data.path == "a b.csv"
    assert config.data.columns == {"user_id": "who"}
    assert config.evaluation.ks == (3, 7)
    assert not config.evaluation.control
    assert (config.finetune_enabled, config.seed) == (False, 5)


def test_a_value_is_written_as_an_override_is_read():
    values = {
        "finetune.metric": "recall@20",
        "finetune.interpolate": False,
        "finetune.trainable": ("item", "user"),
        "finetune.rerank.by": "mmr",
        "finetune.rerank.knob": 0.3,
    }
    changes = [override(key, value) for key, value in values.items()]
    read = read_config(None, ["finetune.algorithm=imitation", *changes]).finetune
    assert (read.metric, read.interpolate, read.trainable) == ("recall@20", False, ("item", "user"))
    assert (read.rerank.by, read.rerank.knob) == ("mmr", 0.3)


def test_the_later_of_two_overrides_wins():
    assert read_config(None, ["finetune.beta=1", "finetune.beta=2"]).finetune.beta == 2


ROUND_TRIPS = {
    "defaults": "",
    "paper": '[finetune]\npreset = "paper"\n',
    "odd values": 'seed = 0\n[data]\npath = "a \\"b\\".csv"\ncolumns = {user_id = "wer"}\n'
    "min_rating = 3.5\n[finetune]\nepsilon_high = 0.3\ntemperature = 0.07\n"
    "[evaluation]\nks = [2]\n",
} | {name: f'[model]\nname = "{name}"\n' for name in MODELS}


@pytest.mark.parametrize("case", ROUND_TRIPS)
def test_a_written_config_reads_back_unchanged(tmp_path, case):
    config = read(tmp_path, ROUND_TRIPS[case])
    reread = resolve(tomllib.loads(config.toml()), "reread")
    assert reread == config
    assert reread.tables() == config.tables()


UNSET = {"epsilon_high", "num_generations", "advantage_clip", "entropy_floor", "exposure_column"}
"""Settings whose default is None, which TOML does not have."""


def test_a_written_config_holds_every_setting():
    tables = read_config(None).tables()
    assert set(tables["pretrain"]) == set(PretrainConfig.model_fields)
    assert set(tables["finetune"]) == set(GRPOConfig.model_fields) - UNSET | {
        "enabled",
        "algorithm",
    }
    assert set(tables["model"]) == {"name", *MODELS["sasrec"].config.model_fields}


@pytest.mark.parametrize(
    "change",
    [
        "pretrain.epochs=true",
        "pretrain.epochs=1.5",
        'pretrain.epochs="1"',
        "pretrain.learning_rate=nan",
        "finetune.mask_seen=1",
        "finetune.beta=true",
        "data.name=3",
        "evaluation.ks=[]",
        "evaluation.ks=[true]",
        "evaluation.ks=10",
        "seed=1.0",
        "seed=false",
        "finetune.enabled=0",
    ],
)
def test_a_value_of_the_wrong_type_is_rejected(change):
    with pytest.raises(ConfigError, match=change.partition("=")[0].split(".")[-1]):
        read_config(None, [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "finetune.reward_smoothing=2",
            "finetune.reward_smoothing: Input should be less than 1, or 'auto' (given: 2).",
        ),
        (
            "finetune.temperature=[1]",
            "finetune.temperature: Input should be a valid number, or 'auto' (given: [1]).",
        ),
        (
            'finetune.sft_coef={float = "a"}',
            "finetune.sft_coef: Input should be a valid number, or 'auto' (given: {'float': 'a'}).",
        ),
        (
            "data.columns.user_id=3",
            "data.columns.user_id: Input should be a valid string (given: 3).",
        ),
        (
            "evaluation.ks=[5, true]",
            "evaluation.ks.1: Input should be a valid integer (given: True).",
        ),
        (
            "data.split=tme",
            "data.split: 'tme' is not one of 'auto', 'leave_last_out', 'time', 'ratio', 'users', "
            "'given'.",
        ),
        ("finetune.temperature=-1", "finetune: temperature must be positive or 'auto'."),
    ],
)
def test_the_error_names_the_key_and_all_accepted_types(change, message):
    with pytest.raises(ConfigError) as error:
        read_config(None, [change])
    assert str(error.value) == f"--set {change}: {message}"


def test_an_error_names_the_override_it_is_about_and_no_other():
    changes = ["data.path=log.csv", 'finetune.reward_funcs=["events"]', "model.dims=3"]
    with pytest.raises(ConfigError) as error:
        read_config(None, changes)
    assert str(error.value).startswith("--set model.dims=3: model: there is no setting 'dims'.")
    with pytest.raises(ConfigError) as error:
        read_config(None, [*changes[:2], "finetune.horizon=3"])
    assert str(error.value).startswith("the defaults with --set: finetune: reward 'events'")
    with pytest.raises(ConfigError, match=r"^--set evaluation=\{ks = \[\]\}: evaluation\.ks: "):
        read_config(None, ["evaluation={ks = []}"])


@pytest.mark.parametrize(
    ("raw", "closest"),
    [
        ({"finetun": {}}, "'finetune'"),
        ({"finetune": {"batchsize": 1}}, "'batch_size'"),
        ({"model": {"name": "lightgcm"}}, "'lightgcn'"),
        ({"model": {"name": "gsau", "dims": 3}}, "'dim'"),
        ({"data": {"kcore": 3}}, "'k_core'"),
        ({"evaluation": {"repeat": "all"}}, "'repeats'"),
    ],
)
def test_the_closest_valid_name_is_suggested(raw, closest):
    with pytest.raises(ConfigError, match=f"Did you mean {closest}"):
        resolve(raw, "here")


def test_without_a_close_name_all_valid_names_are_listed():
    with pytest.raises(ConfigError, match="Choose one of control, ks, repeats"):
        resolve({"evaluation": {"zzz": 1}}, "here")


CONFIGS = [DataConfig, EvaluationConfig, PretrainConfig]
CONFIGS += [entry.config for entry in ALGORITHMS.values()]
CONFIGS += [entry.config for entry in MODELS.values()]


def undocumented_fields(config):
    """Return the fields of a config class that have no description below them."""
    module = importlib.import_module(config.__module__)
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == config.__name__
    )
    return [
        node.target.id
        for node, after in zip(body, [*body[1:], None], strict=True)
        if isinstance(node, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
    ]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_setting_has_a_description(config):
    models = [kind for kind in config.__mro__ if issubclass(kind, BaseModel)]
    classes = [kind for kind in models if kind is not BaseModel]
    assert classes
    undocumented = {kind.__name__: undocumented_fields(kind) for kind in classes}
    assert undocumented == {kind.__name__: [] for kind in classes}


def test_reward_weights_must_match_reward_funcs():
    with pytest.raises(ConfigError, match=r"reward_weights has 1 numbers for 2 reward_funcs"):
        read_config(
            None, ["finetune.reward_funcs=['next', 'novelty']", "finetune.reward_weights=[1.0]"]
        )
    config = read_config(None, ["finetune.reward_funcs=['next', 'novelty']"]).finetune
    assert config.reward_funcs == ("next", "novelty")


# --- settings of earlier versions ------------------------------------------------------------

FULL = {  # every key that a run folder of an earlier version has in [grpo]
    "estimator": "exact",
    "loss_type": "log",
    "pass_k": 10,
    "power": 0.5,
    "slate_length": 10,
    "replacement": True,
    "dead_groups": "zero",
    "num_negatives": 8192,
    "num_iterations": 1,
    "old_model_sync_steps": 1,
    "epsilon": 0.2,
    "scale_rewards": "group",
    "beta": 0.0,
    "kl_estimator": "exact",
    "ref_model_sync_steps": 0,
    "entropy_coef": 0.0,
    "normalize_weights": True,
    "shard_items": False,
    "horizon": 5,
}
DRAWN = {"estimator": "sampled", "loss_type": "grpo", "num_generations": 64}
LEGACY = {
    "grpo": ({"algorithm": "grpo"}, {}),
    "ppo": (DRAWN | {"algorithm": "ppo"}, {"algorithm": "ppo", "num_generations": 64}),
    "raft": (DRAWN | {"algorithm": "raft"}, {"algorithm": "raft", "num_generations": 64}),
    "top-k": (
        {"algorithm": "top_k_off_policy", "pass_k": 4},
        {"algorithm": "top_k_off_policy", "top_k": 4},
    ),
    "s_dpo": ({"algorithm": "s_dpo", "beta": 0.5}, {"algorithm": "s_dpo", "beta": 0.5}),
    "sac": ({"algorithm": "sac"}, {"algorithm": "sqn_actor_critic"}),
}


@pytest.mark.parametrize("name", LEGACY)
def test_a_stored_grpo_table_becomes_that_of_its_algorithm(name, caplog):
    former, present = LEGACY[name]
    stored = resolve({"finetune": True, "grpo": FULL | former}, "config.toml")
    assert stored.tables() == resolve({"finetune": {"horizon": 5} | present}, "new").tables()
    assert stored.finetune_enabled
    assert not caplog.text


@pytest.mark.parametrize("name", ["sac", "sqn_actor_critic"])
def test_a_run_of_the_former_actor_critic_is_refused_by_name(name):
    stored = {"algorithm": name, "kl_estimator": "exact", "beta": 0.0, "reward_smoothing": "auto"}
    message = "config.toml: finetune.algorithm: the run was trained by the 'sqn_actor_critic' of an"
    with pytest.raises(ConfigError, match=message):
        resolve({"finetune": stored}, "config.toml")


def test_the_former_switch_is_finetune_enabled(caplog):
    assert not resolve({"finetune": False}, "stored").finetune_enabled
    assert not caplog.text
    assert not read_config(None, ["finetune=false"]).finetune_enabled
    assert "finetune.enabled for finetune" in caplog.text


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("[grpo]\nbeta = 0.5\n", []),
        ("", ["grpo.beta=0.5"]),
        ("[finetune]\nhorizon = 10\n", ["grpo.beta=0.5"]),
        ("[grpo]\nbeta = 0.1\n", ["finetune.beta=0.5"]),
        ("finetune = true\n", ["finetune.beta=0.5"]),
        ("[grpo]\nbeta = 0.1\n", ["grpo.beta=0.5"]),
    ],
)
def test_a_users_former_settings_are_converted_with_one_message(tmp_path, text, changes, caplog):
    config = read(tmp_path, text, *changes)
    assert config.finetune == GRPOConfig(beta=0.5, mask_seen=True)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Write [finetune] for [grpo]" in caplog.text


def test_present_settings_give_no_message(tmp_path, caplog):
    read(tmp_path, "[finetune]\nbeta = 0.5\nenabled = false\n", "finetune.horizon=3")
    assert not caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["grpo.algorithm=ppo", "grpo.loss_type=grpo"], "'ppo' does not read grpo.loss_type"),
        (["grpo.algorithm=sac", "grpo.num_iterations=2"], "does not read grpo.num_iterations = 2"),
        (["grpo.algorithm=s_dpo", "grpo.num_negatives=9"], "does not read grpo.num_negatives"),
    ],
)
def test_an_explicit_former_setting_without_effect_is_an_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_config(None, changes)


def test_both_forms_of_the_table_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"\[grpo\] is the former name of \[finetune\]"):
        read(tmp_path, "[grpo]\nbeta = 1\n[finetune]\nbeta = 2\n")


def test_sac_is_still_accepted_by_its_former_name(caplog):
    config = read_config(None, ["finetune.algorithm=sac"])
    assert config.finetune.algorithm == "sqn_actor_critic"
    assert "algorithm 'sac' is now called 'sqn_actor_critic'" in caplog.text


def test_an_unknown_algorithm_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"finetune.algorithm: there is no algorithm .*grpo"):
        read_config(None, ["finetune.algorithm=gpro"])
    with pytest.raises(ConfigError, match="preset must be 'default' with algorithm 'dqn'"):
        read_config(None, ["finetune.algorithm=dqn", "finetune.preset=paper"])


def test_another_algorithm_replaces_the_defaults_of_the_former(tmp_path):
    text = read_config(None, ["finetune.beta=0.5", "finetune.epochs=7"]).toml()
    config = read(tmp_path, text, "finetune.algorithm=ppo")
    assert config.finetune == PPOConfig(beta=0.5, epochs=7, mask_seen=True)
    values = read(tmp_path, read_config(None).toml(), "finetune.algorithm=dqn").finetune
    assert values == DQNConfig(mask_seen=True)
    with pytest.raises(ConfigError, match="there is no setting 'beta'"):
        read(tmp_path, text, "finetune.algorithm=dqn")


@pytest.mark.parametrize(
    ("former", "repeats"), [("all", "new"), ("none", "all"), ("recbole", "recbole")]
)
def test_settings_of_earlier_versions_keep_their_split_and_their_masking(former, repeats):
    raw = {"data": {"path": "a.csv", "test_items": 3}, "evaluation": {"mask_seen": former}}
    config = resolve(raw, "here")
    assert config.data.split == LeaveLastOut(test_items=3)
    assert config.evaluation.repeats == repeats


@pytest.mark.parametrize(
    ("changes", "split"),
    [
        (["data.split=time"], ByTime()),
        (["data.split=time", "data.split.target=successive"], ByTime(target="successive")),
        (["data.split.at=0.8"], ByTime(at=0.8)),
        (['data.split={kind="ratio", target_events=["buy"]}'], ByRatio(target_events=("buy",))),
        ([], Auto()),
    ],
)
def test_a_split_is_a_name_or_a_table(changes, split):
    config = read_config(None, changes)
    assert config.data.split == split
    assert resolve(tomllib.loads(config.toml()), "again").data.split == split


def test_an_unknown_split_is_named():
    with pytest.raises(ConfigError, match=r"data\.split.*'auto', 'leave_last_out', 'time'"):
        read_config(None, ["data.split=by_day"])


def test_an_unknown_setting_of_a_split_is_named():
    with pytest.raises(ConfigError, match=r"no setting 'att'. Did you mean 'at'"):
        read_config(None, ['data.split={kind="time", att=0.8}'])

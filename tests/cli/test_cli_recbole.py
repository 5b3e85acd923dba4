"""Import, fine-tune and export checkpoints in RecBole's layout."""

import json
import zipfile

import numpy as np
import pytest
import torch

import recbole_layout
from recoach.data.prepared import load_dataset
from recoach.evaluation.evaluator import evaluate
from recoach.models.checkpoint import load_model

TUNE = (
    "--set",
    "finetune.epochs=2",
    "finetune.patience=0",
    "finetune.learning_rate=0.05",
    "finetune.select=last",
)


@pytest.fixture(scope="module")
def imported(recoach, tmp_path_factory):
    """Return a function that imports each model once: (checkpoint, log, run)."""
    imports = {}

    def of(name):
        if name not in imports:
            folder = tmp_path_factory.mktemp(name)
            file, log = recbole_layout.make_files(folder, name)
            result = recoach("import", "recbole", file, "--data", log, "--output", folder / "run")
            assert result.code == 0, result
            assert f"{log.name}: " in result.out
            assert "rows used, filtered as RecBole's settings in the checkpoint say" in result.out
            imports[name] = (file, log, folder / "run")
        return imports[name]

    return of


def model_of(run, stage):
    dataset = load_dataset(run / "dataset")
    return load_model(run / "checkpoints" / stage, dataset), dataset


@pytest.mark.parametrize("name", recbole_layout.MODELS)
def test_an_imported_checkpoint_has_the_metrics_of_recbole(name, imported, tmp_path):
    file, _, run = imported(name)
    rows = recbole_layout.write_log(tmp_path / "again.inter")
    model, dataset = model_of(run, "base")
    state = recbole_layout.load(file)["state_dict"]
    for split in ("valid", "test"):
        ndcg = evaluate(model, dataset, split, repeats="recbole").means()["ndcg@10"]
        assert round(ndcg, 4) == recbole_layout.expected_ndcg(name, state, rows, split)
    assert json.loads((run / "recbole.json").read_text())["agrees"] is True
    assert [list(dataset.test.row(user)) for user in range(dataset.n_users)] == [
        [row[-1]] for row in rows
    ]


@pytest.mark.parametrize("name", recbole_layout.MODELS)
def test_an_exported_checkpoint_has_the_tuned_metrics_in_recbole(name, imported, recoach, tmp_path):
    file, _, run = imported(name)
    result = recoach("finetune", run, *TUNE)
    assert result.code == 0, result
    target = tmp_path / "tuned.pth"
    result = recoach("export", "recbole", run, "--checkpoint", file, "--output", target)
    assert result.code == 0, result
    assert "tuned model" in result.out
    rows = recbole_layout.write_log(tmp_path / "again.inter")
    before, after = (recbole_layout.load(path) for path in (file, target))
    state = after["state_dict"]
    assert not torch.equal(_items(state), _items(before["state_dict"]))
    assert torch.equal(_items(state)[0], _items(before["state_dict"])[0])  # the padding row
    model, dataset = model_of(run, "tuned")
    ndcg = evaluate(model, dataset, "test", repeats="recbole").means()["ndcg@10"]
    assert round(ndcg, 4) == recbole_layout.expected_ndcg(name, state, rows, "test")
    if name == "LightGCN":  # RecBole ranks with the propagated embeddings
        users, items = recbole_layout.propagate(*state.values(), rows)
        parameters = after["other_parameter"]
        assert torch.allclose(parameters["restore_user_e"][1:], users[1:], atol=1e-6)
        assert torch.allclose(parameters["restore_item_e"][1:], items[1:], atol=1e-6)


def _items(state):
    return next(value for key, value in state.items() if key.endswith("item_embedding.weight"))


@pytest.mark.parametrize("name", recbole_layout.MODELS)
def test_the_base_is_exported_bit_for_bit(name, imported, recoach, tmp_path):
    file, _, run = imported(name)
    target = tmp_path / "base.pth"
    words = ("--checkpoint", file, "--output", target, "--stage", "base")
    assert recoach("export", "recbole", run, *words).code == 0
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target) as new:
        assert old.namelist() == new.namelist()
        changed = [entry for entry in old.namelist() if old.read(entry) != new.read(entry)]
    before, after = (recbole_layout.load(path) for path in (file, target))
    for key, value in before["state_dict"].items():
        assert torch.equal(after["state_dict"][key], value)
    assert len(changed) == (name == "LightGCN")  # propagated again, summed in another order


def test_an_imported_run_recommends_and_reports(imported, recoach):
    _, _, run = imported("SASRec")
    assert recoach("report", run).code == 0
    result = recoach("recommend", run, "--users", "u0", "--k", "3", "--stage", "base")
    assert result.code == 0, result
    assert result.out.count("u0") == 3


def test_an_imported_run_can_be_evaluated_with_seen_items_masked(recoach, tmp_path):
    file, log = recbole_layout.make_files(tmp_path, "SASRec")
    words = ("import", "recbole", file, "--data", log, "--repeats", "new")
    assert recoach(*words, "--output", tmp_path / "run").code == 0
    model, dataset = model_of(tmp_path / "run", "base")
    ndcg = evaluate(model, dataset, "test", repeats="new").means()["ndcg@10"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["models"]["base"]["test"]["ndcg@10"] == round(ndcg, 6)
    assert results["config"]["evaluation"]["repeats"] == "new"
    assert results["config"]["finetune"]["mask_seen"] is True


def test_a_validation_value_that_is_not_reproduced_refuses_the_import(recoach, tmp_path):
    file, log = recbole_layout.make_files(tmp_path, "GRU4Rec", score=0.9)
    words = ("import", "recbole", file, "--data", log, "--output", tmp_path / "run")
    result = recoach(*words)
    assert result.code == 2
    for part in ("NDCG@10 = 0.9", "ndcg@10 is 0.", "--unverified"):
        assert part in result.err
    assert not (tmp_path / "run").exists()
    result = recoach(*words, "--unverified")
    assert result.code == 0, result
    assert "NOT VERIFIED" in result.out
    assert recoach(*words).code == 2  # the run exists now


def spoiled(folder, name, change):
    """Write a checkpoint whose weights were changed by a function."""
    rows = recbole_layout.write_log(folder / "log.inter")
    state = recbole_layout.weights(name)
    score = recbole_layout.expected_ndcg(name, state, rows)
    change(state)
    config = recbole_layout.settings(name)
    return recbole_layout.save(folder / "x.pth", config, state, score), folder / "log.inter"


SPOILED = {
    "another size": (
        "BPR",
        lambda s: s.update({"item_embedding.weight": torch.ones(9, 8)}),
        ["item_embedding.weight", "[9, 8]", "[26, 8]", "log it was trained on"],
    ),
    "one missing": ("GRU4Rec", lambda s: s.pop("dense.bias"), ["lacks", "dense.bias"]),
    "one too many": ("SASRec", lambda s: s.update(extra=torch.ones(2)), ["extra", "SASRec"]),
    "no numbers": ("BPR", lambda s: s["item_embedding.weight"].fill_(np.nan), ["non-finite"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_weights_that_do_not_match_the_model_are_named(case, recoach, tmp_path):
    name, change, words = SPOILED[case]
    file, log = spoiled(tmp_path, name, change)
    result = recoach("import", "recbole", file, "--data", log, "--output", tmp_path / "run")
    assert result.code == 2
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err
    assert not (tmp_path / "run").exists()


CONFIGS = {
    "another model": ("SASRec", {"model": "NARM"}, "'NARM'"),
    "another activation": ("SASRec", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    "another encoder": ("GSAU", {"sequential_encoder": "BERT4Rec"}, "'BERT4Rec'"),
    "another split": ("BPR", {"eval_args": {"split": {"LS": "test_only"}}}, "test_only"),
    "sampled evaluation": (
        "BPR",
        {"eval_args": recbole_layout.settings("BPR")["eval_args"] | {"mode": "uni100"}},
        "random items (mode: uni100), which it drew during training and did not store",
    ),
    "another metric": ("BPR", {"valid_metric": "GAUC"}, "does not have the metric GAUC"),
    "equal times": ("BPR", {"score": 0.9, "rm_dup_inter": "first"}, "give its ids by --ids"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_settings_without_a_counterpart_are_refused(case, recoach, tmp_path):
    name, changes, words = CONFIGS[case]
    file, log = recbole_layout.make_files(tmp_path, name, **changes)
    result = recoach("import", "recbole", file, "--data", log, "--output", tmp_path / "run")
    assert result.code == 2, result
    assert result.err.startswith("Error: ")
    assert words in result.err
    assert not (tmp_path / "run").exists()
    if "cannot be checked" in result.err:
        assert "--unverified" in result.err
        words = ("import", "recbole", file, "--data", log, "--output", tmp_path / "run")
        result = recoach(*words, "--unverified")
        assert result.code == 0, result
        assert "NOT VERIFIED" in result.out


@pytest.mark.parametrize(
    ("user", "item"),
    [("[10,inf)", "[5,inf)"), ("[0,inf)", "[5,inf)"), ("[5,100]", "[5,inf)")],
)
def test_different_intervals_are_not_converted_to_another_filter(user, item, recoach, tmp_path):
    (tmp_path / "a.yaml").write_text(
        f'model: BPR\nuser_inter_num_interval: "{user}"\nitem_inter_num_interval: "{item}"\n'
    )
    result = recoach("convert-config", tmp_path / "a.yaml", "--output", tmp_path / "a.toml")
    assert result.code == 2
    assert "user_inter_num_interval and item_inter_num_interval cannot be converted" in result.err
    assert not (tmp_path / "a.toml").exists()


@pytest.mark.parametrize(
    ("lines", "split"),
    [
        ("model: BPR", {"kind": "ratio", "order": "random"}),
        ("model: SASRec", {"kind": "leave_last_out"}),
        ("model: BPR\neval_args: {split: {LS: valid_and_test}}", "auto"),
        (
            "model: BPR\neval_args: {split: {RS: [6, 2, 2]}, order: TO}",
            {"kind": "ratio", "valid_ratio": 0.2, "test_ratio": 0.2},
        ),
    ],
)
def test_the_split_of_a_yaml_file_is_converted(lines, split, recoach, tmp_path):
    tomllib = pytest.importorskip("tomllib")
    (tmp_path / "a.yaml").write_text(lines)
    result = recoach("convert-config", tmp_path / "a.yaml", "--output", tmp_path / "a.toml")
    assert result.code == 0, result
    text = (tmp_path / "a.toml").read_text()
    assert tomllib.loads(text)["data"]["split"] == split
    assert ("dropped: eval_args" in text) == ("BPR" in lines and "TO" not in lines)


def test_an_export_needs_the_checkpoint_of_the_import(imported, recoach, tmp_path):
    file, _, run = imported("BPR")
    other, _ = recbole_layout.make_files(tmp_path, "SASRec")
    for run_, source, output, words in (
        (run, other, tmp_path / "a.pth", "was not imported from"),
        (run, tmp_path / "gone.pth", tmp_path / "a.pth", "Cannot read"),
        (run, file, file, "is the original"),
        (tmp_path, file, tmp_path / "a.pth", "not a run folder"),
    ):
        result = recoach("export", "recbole", run_, "--checkpoint", source, "--output", output)
        assert result.code == 2, result
        assert words in result.err
    assert not (tmp_path / "a.pth").exists()


YAML = """
model: SASRec
dataset: toys
data_path: dataset/
n_layers: 1
hidden_size: 32
learning_rate: 5e-4
train_batch_size: 512
epochs: 50
stopping_step: 5
valid_metric: Recall@20
topk: [10, 20]
seed: 7
user_inter_num_interval: "[5,inf)"
item_inter_num_interval: "[5,inf)"
val_interval: {rating: "[3,inf)"}
rm_dup_inter: first
ITEM_ID_FIELD: asin
weight_decay: 1e-5
clip_grad_norm: {max_norm: 5}
"""


def test_a_yaml_file_is_converted_and_dropped_settings_are_listed(recoach, tmp_path):
    tomllib = pytest.importorskip("tomllib")
    (tmp_path / "a.yaml").write_text(YAML)
    result = recoach("convert-config", tmp_path / "a.yaml", "--output", tmp_path / "a.toml")
    assert result.code == 0, result
    assert "dropped: clip_grad_norm" in result.out
    assert "weight_decay" not in result.out
    text = (tmp_path / "a.toml").read_text()
    assert text.startswith("# dropped: clip_grad_norm")
    config = tomllib.loads(text)
    assert config["seed"] == 7
    assert config["data"] == {
        "path": "dataset/toys/toys.inter",
        "name": "toys",
        "k_core": 5,
        "dedup": "first",
        "min_rating": 3.0,
        "columns": {"item_id": "asin"},
        "split": {"kind": "leave_last_out"},
    }
    model = {"name": "sasrec", "dim": 32, "layers": 1, "heads": 2, "inner_dim": 256}
    assert config["model"] == model | {"dropout": 0.5, "max_length": 50}
    assert config["pretrain"] == {
        "learning_rate": 5e-4,
        "batch_size": 512,
        "epochs": 50,
        "patience": 6,
        "metric": "recall@20",
        "optim": "adam",
        "weight_decay": 1e-5,
    }
    assert config["evaluation"] == {"repeats": "recbole", "ks": [1, 5, 10, 20, 50]}
    printed = recoach("convert-config", tmp_path / "a.yaml")
    assert " ".join(text.split()) == printed.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: NARM\n", "model 'NARM' is not supported"),
        ("dataset: x\n", "model 'None' is not supported"),
        ("- a\n- b\n", "has no settings"),
        ("a: [\n", "is not valid YAML"),
        ("model: SASRec\nn_heads: 3\n", "heads = 3 must divide"),
        ("model: BPR\nepochs: many\n", "pretrain.epochs"),
        ("model: BPR\nstopping_step: few\n", "pretrain.patience"),
        ("model: BPR\ntopk: [few]\n", "evaluation.ks"),
        ("model: BPR\neval_args: full\n", "eval_args must be a table"),
        ("model: BPR\nval_interval: [1]\n", "val_interval must be a table"),
        ("model: BPR\nval_interval: {rating: '[x'}\n", "is not an interval"),
        ("!!python/object/apply:os.system ['true']\n", "is not valid YAML"),
        (None, "Cannot read"),
    ],
)
def test_a_yaml_file_that_cannot_be_converted_is_refused(text, words, recoach, tmp_path):
    if text is not None:
        (tmp_path / "a.yaml").write_text(text)
    result = recoach("convert-config", tmp_path / "a.yaml")
    assert result.code == 2
    assert result.err.startswith("Error: ")
    assert words in result.err

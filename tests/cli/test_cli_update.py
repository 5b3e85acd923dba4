"""`recoach update`: new days on the command line."""

import shutil


def test_a_day_is_added_listed_and_rolled_back(recoach, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{user},i{(user + 1) % 40},{1600000000 + user}" for user in range(60)]
    (tmp_path / "day.csv").write_text("\n".join([*lines, "u1,fresh,1600000100"]))
    settings = ("--set", "update.epochs=1", "update.replay=0.5")
    done = recoach("update", run, "--data", tmp_path / "day.csv", *settings)
    assert done.code == 0, done.err
    assert "61 rows: 61 new, 0 already in the log; 0 new users, 1 new items." in done.out
    assert "1 setting was tried" in done.out
    again = recoach("update", run, "--data", tmp_path / "day.csv", *settings)
    assert "61 rows: 0 new, 61 already in the log" in again.out
    assert "ndcg@10" in recoach("update", run).out
    lists = recoach("recommend", run, "--users", "u1", "--k", "3")
    assert lists.code == 0, lists.err


def test_wrong_settings_and_options_are_named(recoach, finished):
    day = ("--data", "missing.csv")
    for options, message in (
        ((*day, "--set", "update.replays=1"), "there is no setting 'replays'"),
        ((*day, "--set", "finetune.beta=1"), "--set takes update.KEY=VALUE"),
        (("--items", "x.csv"), "belong to --data"),
        ((*day, "--rollback"), "cannot be combined"),
        (day, "missing.csv: there is no such file"),
        (("--rollback",), "there is no way back"),
    ):
        refused = recoach("update", finished, *options)
        assert refused.code == 2
        assert message in " ".join(refused.err.split()), refused.err

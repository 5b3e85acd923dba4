import pytest
from rich.console import Console

from recoach.report.tables import comparison_table, number, percent, verdict


def entry(results, a, b, metric):
    keys = ("a", "b", "metric")
    return next(c for c in results["comparisons"] if tuple(c[k] for k in keys) == (a, b, metric))


def printed(table):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(table)
    return console.export_text()


def test_a_gain_is_told_with_its_interval_and_its_control(results):
    assert verdict(results) == (
        "GRPO lifts NDCG@10 from 0.0592 to 0.0619 (+4.6 %, 95 % interval +2.9 to +6.2 %) and "
        "lifts Recall@10 from 0.0944 to 0.0996 (+5.5 %, 95 % interval +3.5 to +7.5 %). "
        "The same number of supervised steps gives +1.0 % NDCG@10, no measurable difference; "
        "GRPO is ahead of that by +3.5 % (95 % +2.5 to +4.5 %)."
    )


def test_a_loss_is_called_a_loss(results):
    worse = entry(results, "tuned", "base", "ndcg@10")
    worse.update(verdict="worse", relative=-0.02, low=-0.03 * 0.0592, high=-0.01 * 0.0592)
    assert "GRPO lowers NDCG@10 from 0.0592 to 0.0619 (−2.0 %, 95 % interval −3.0 to −1.0 %)" in (
        verdict(results)
    )


def test_no_difference_is_not_sold_as_a_gain(results):
    entry(results, "tuned", "base", "ndcg@10")["verdict"] = "no difference"
    text = verdict(results)
    assert "makes no measurable difference to NDCG@10 (0.0592 to 0.0619: +4.6 %" in text
    assert "lifts NDCG" not in text


def test_a_base_that_was_kept_is_said_to_be_kept(results):
    results["models"]["tuned"]["best_step"] = 0
    assert verdict(results).startswith("GRPO made no difference: no step beat the base")
    assert "the base was kept" in verdict(results)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("worse", "falls short of that by"), ("no difference", "cannot be told apart from that")],
)
def test_the_control_may_win_or_draw(results, outcome, words):
    entry(results, "tuned", "control", "ndcg@10")["verdict"] = outcome
    assert words in verdict(results)


def test_without_a_control_there_is_one_sentence(results):
    results["comparisons"] = [c for c in results["comparisons"] if "control" not in c.values()]
    assert verdict(results).endswith("+7.5 %).")


def test_a_pretrained_run_is_described_by_its_base(results):
    del results["models"]["tuned"], results["models"]["control"]
    assert verdict(results) == (
        "The base reaches NDCG@10 0.0592 on the test items, popularity 0.0100; "
        "it has not been tuned yet."
    )


def test_the_console_table_marks_gains_and_draws(results):
    text = printed(comparison_table(results))
    assert "0.0619" in text
    assert "+4.6 % ▲" in text
    assert "+1.0 % =" in text
    order = [text.index(name) for name in ("Popularity", "Base ", "supervised", "GRPO")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.046, "+4.6 %"), (-0.02, "−2.0 %"), (-0.0001, "0.0 %"), (None, "–"), (float("nan"), "–")],
)
def test_per_cent_are_signed_and_zero_has_no_sign(share, text):
    assert percent(share) == text


def test_an_unknown_number_is_a_dash():
    assert [number(None), number(float("nan")), number(0.05919)] == ["–", "–", "0.0592"]

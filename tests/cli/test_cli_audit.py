import pytest


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "[red]log.csv"
    lines = [
        f"u{user},i{(user * step) % 7},{1000 * user + step}"
        for user in range(20)
        for step in range(6)
    ]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    return path


def test_the_audit_prints_sentences_and_tables(recoach, file):
    result = recoach("data", "audit", file)
    assert result.code == 0
    assert "- " in result.out
    assert "│ rows " in result.out
    assert "What each split tests" in result.out
    assert "120" in result.out


def test_the_audit_writes_a_page(recoach, file, tmp_path):
    result = recoach("data", "audit", file, "--html", tmp_path / "new" / "page.html")
    assert result.code == 0
    assert "page.html" in result.out
    assert "<h1>Audit of [red]log.csv</h1>" in (tmp_path / "new" / "page.html").read_text()


def test_the_audit_takes_the_filters_of_describe(recoach, file, tmp_path):
    named = tmp_path / "named.csv"
    named.write_text(file.read_text().replace("user_id,item_id", "visitor,sku"))
    options = ("--column", "user_id=visitor", "item_id=sku", "--dedup", "first", "--k-core", "2")
    result = recoach("data", "audit", named, *options)
    assert result.code == 0
    assert "identical rows" in result.out
    assert "repeated pairs of user and item" in result.out
    assert "0 (0 %)" in result.out


def test_a_bad_call_prints_one_line_and_leaves_no_page(recoach, file, tmp_path):
    missing = recoach("data", "audit", tmp_path / "missing.csv", "--html", tmp_path / "a.html")
    assert missing.code == 2
    assert not (tmp_path / "a.html").exists()
    occupied = recoach("data", "audit", file, "--html", tmp_path)
    assert occupied.code == 2
    assert "Traceback" not in occupied.err


def test_an_audit_reads_the_event_types_it_is_told(recoach, tmp_path):
    rows = [f"u{u},i{i},{['buy', 'look', 'skip'][i % 3]}" for u in range(4) for i in range(9)]
    path = tmp_path / "a.csv"
    path.write_text("user_id,item_id,event_type\n" + "\n".join(rows) + "\n")
    options = ("--events", "look,buy,skip", "--negative-events", "skip")
    result = recoach("data", "audit", path, *options)
    assert result.code == 0, result
    assert "look < buy < skip (negative)" in result.out

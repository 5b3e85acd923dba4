"""Byte order marks, encodings, line ends and names of text files."""

import gzip
import json

import polars as pl
import pytest

from recoach.data.ingest import read_interactions
from recoach.data.readers.registry import open_table
from recoach.data.readers.text import LogFile
from recoach.errors import DataError

CSV = "user_id,item_id,title\nu,i,a\nv,j,b\n"
TEXTS = {
    "a.csv": CSV,
    "a.tsv": CSV.replace(",", "\t"),
    "a.inter": CSV.replace(",", ":token\t", 2).replace("title", "title:token").replace(",", "\t"),
    "a.jsonl": '{"user_id": "u", "item_id": "i"}\n{"user_id": "v", "item_id": "j"}\n',
    "a.txt": "u i\nv j i\n",
}
PAIRS = {name: [("u", "i"), ("v", "j")] for name in TEXTS} | {
    "a.txt": [("u", "i"), ("v", "j"), ("v", "i")]
}


def zstd(content):
    return pytest.importorskip("pyarrow").Codec("zstd").compress(content, asbytes=True)


PACKS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def pairs_of(path):
    return read_interactions(path).frame().select("user_id", "item_id").rows()


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("suffix", PACKS)
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(PACKS[suffix](b"\xef\xbb\xbf" + TEXTS[name].encode()))
    assert pairs_of(path) == PAIRS[name]


def test_byte_order_marks_of_joined_files_are_no_part_of_the_ids(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffuser,item\nu,i\n\ufeffu,j\n", encoding="utf-8")
    assert pairs_of(tmp_path / "a.csv") == [("u", "i"), ("u", "j")]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_encoding_of_a_byte_order_mark_is_named(tmp_path, name, encoding, suffix):
    path = tmp_path / (name + suffix)
    path.write_bytes(PACKS[suffix](TEXTS[name].encode(encoding)))
    with pytest.raises(
        DataError, match=rf"{path.name}: the file is {encoding.upper()} text\. Save"
    ):
        read_interactions(path)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_other_encodings_of_two_or_four_bytes_are_refused(tmp_path, name, encoding):
    (tmp_path / name).write_bytes(TEXTS[name].encode(encoding))
    with pytest.raises(DataError, match=rf"{name}:1: the line holds NUL"):
        read_interactions(tmp_path / name)


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("suffix", PACKS)
def test_the_line_of_a_byte_that_is_no_utf_8_is_named(tmp_path, name, suffix):
    lines = TEXTS[name].encode().splitlines(keepends=True)
    content = lines[0] + lines[1] * 30_000 + lines[1].replace(b"i", b"\xe9", 1) + lines[1]
    if name == "a.txt":  # users of a sequence file have one line each
        content = b"".join(b"%d i j\n" % user for user in range(30_001)) + b"x \xe9\n"
    path = tmp_path / (name + suffix)
    path.write_bytes(PACKS[suffix](content))
    with pytest.raises(DataError, match=rf"{path.name}:30002: the line is not UTF-8 text"):
        read_interactions(path)


def test_a_replacement_character_in_the_text_is_not_taken_for_a_wrong_byte(tmp_path):
    (tmp_path / "a.csv").write_text('user,item,x\nu\ufffd,i,"open\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:2: a quote opens a value"):
        read_interactions(tmp_path / "a.csv")


@pytest.mark.parametrize("name", TEXTS)
def test_files_of_old_systems_are_read(tmp_path, name):
    for end, last in (("\r\n", ""), ("\r", ""), ("\r\n", "\x1a"), ("\n", "\x1a")):
        (tmp_path / name).write_bytes((TEXTS[name].replace("\n", end) + last).encode())
        assert pairs_of(tmp_path / name) == PAIRS[name]
    (tmp_path / name).write_bytes((TEXTS[name].removesuffix("\n") + "\x1a").encode())
    if name != "a.inter":  # its last value is a title
        assert "\x1a" not in str(pairs_of(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize(("byte", "word"), [("\0", "a NUL character"), ("\r", "a carriage return")])
def test_control_characters_within_a_line_are_refused(tmp_path, name, byte, word):
    text = TEXTS[name].replace("j", f"j{byte}x", 1)
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(DataError, match=rf"{name}:2: the line holds {word}"):
        read_interactions(tmp_path / name)


NAMES = ["a[1]", "a*", "a?", "a{b,c}", "**", "~", "[!a] é"]


@pytest.mark.parametrize("stem", NAMES)
@pytest.mark.parametrize("ending", [".csv", ".inter", ".jsonl", ".txt", ".csv.gz", ".parquet"])
def test_special_characters_in_a_path_are_those_of_the_name(tmp_path, monkeypatch, stem, ending):
    folder = tmp_path / stem
    folder.mkdir()
    monkeypatch.chdir(folder)
    for number, name in enumerate((f"{stem}{ending}", f"a1{ending}", f"ab{ending}")):
        user, item = f"user{number}", f"item{number}"
        content = {
            ".csv": f"user_id,item_id\n{user},{item}\n",
            ".inter": f"user_id:token\titem_id:token\n{user}\t{item}\n",
            ".jsonl": json.dumps({"user_id": user, "item_id": item}) + "\n",
            ".txt": f"{user} {item} other\nx {item} {item} {item}\n",
            ".csv.gz": f"user_id,item_id\n{user},{item}\n",
        }
        if ending == ".parquet":
            frame = pl.DataFrame({"user_id": [user], "item_id": [item]})
            frame.write_parquet(folder / "plain")
            (folder / "plain").replace(folder / name)
        else:
            pack = gzip.compress if ending.endswith(".gz") else bytes
            (folder / name).write_bytes(pack(content[ending].encode()))
    for path in (folder / f"{stem}{ending}", f"{stem}{ending}"):
        assert pairs_of(path)[0] == ("user0", "item0")


ACCENTS = "user_id;item_id;title\nJosé;ñ;été\nv;j;b\n"


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_text_of_a_given_encoding_is_read(tmp_path, encoding, suffix):
    path = tmp_path / f"a.csv{suffix}"
    path.write_bytes(PACKS[suffix](ACCENTS.encode(encoding)))
    file = LogFile(path, encoding)
    assert file.first_line == "user_id;item_id;title"
    lines = file.lines().collect()["line"].to_list()
    assert lines == ["user_id;item_id;title", "José;ñ;été", "v;j;b"]


def test_a_wrong_or_unknown_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(ACCENTS.encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.csv: the file is not shift_jis text"):
        LogFile(tmp_path / "a.csv", "shift_jis").first_line  # noqa: B018 - it raises
    with pytest.raises(DataError, match=r"encoding: 'latin1x' is unknown. Did you mean 'latin-1'"):
        LogFile(tmp_path / "a.csv", "latin1x").first_line  # noqa: B018 - it raises


def test_the_copy_of_a_text_is_removed_with_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    (tmp_path / "a.csv").write_text('user,item,x\nu,i,6" nails\n')
    table = open_table(tmp_path / "a.csv", "csv", bool)
    assert len(list((tmp_path / "copies").iterdir())) == 1
    assert table.frame.collect().row(0) == ("u", "i", '6" nails')
    del table
    assert list((tmp_path / "copies").iterdir()) == []
    (tmp_path / "a.csv").write_text('user,item,x\nu,i,6" nails\nu,i\n')
    with pytest.raises(DataError, match=r"a\.csv:3: 2 values"):
        read_interactions(tmp_path / "a.csv")
    assert list((tmp_path / "copies").iterdir()) == []

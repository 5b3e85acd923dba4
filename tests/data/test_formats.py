"""Each public data set is recognised and read in its own layout; all rows here are invented."""

import gzip
import json

import polars as pl
import pytest

from recoach.data.config import PrepareConfig
from recoach.data.ingest import read_interactions, stream_interactions
from recoach.data.prepared import prepare
from recoach.data.readers.registry import READERS, open_table
from recoach.errors import DataError


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def goodreads(book, rating, *, is_read):
    return json.dumps(
        {
            "user_id": "8842281e",
            "book_id": book,
            "review_id": "r1",
            "is_read": is_read,
            "rating": rating,
            "date_added": "Fri Nov 10 11:06:02 -0800 2017",
            "read_at": "",
        }
    )


KUAIRAND = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
TRACK = "00e1cf71-bd35-4e99-8624-24a6e15f133b"
PLACE = "470\t49bbd6c0\t4bf58dd8"

# format -> file name, text, the columns that are taken, the rows
SAMPLES = {
    "movielens": [
        (
            "ratings.dat",
            lines("1::1193::5::978300760", "1::661::3.5::978302109"),
            ("user_id", "item_id", "rating", "timestamp"),
            [("1", "1193", "5", "978300760"), ("1", "661", "3.5", "978302109")],
        ),
        (
            "u.data",
            lines("196\t242\t3\t881250949", "186\t302\t3\t891717742"),
            ("user_id", "item_id", "rating", "timestamp"),
            [("196", "242", "3", "881250949"), ("186", "302", "3", "891717742")],
        ),
    ],
    "netflix": [
        (
            "combined_data_1.txt",
            lines("1:", "14,3,2005-09-06", "82,5,2005-05-13", "2:", "14,4,2004-01-02"),
            ("user_id", "item_id", "rating", "timestamp"),
            [
                ("14", "1", "3", "2005-09-06"),
                ("82", "1", "5", "2005-05-13"),
                ("14", "2", "4", "2004-01-02"),
            ],
        ),
    ],
    "book-crossing": [
        (
            "BX-Book-Ratings.csv",
            lines('"User-ID";"ISBN";"Book-Rating"', '"27";"034545104X";"0"', '"28";"0;1\\"";"5"'),
            ("user_id", "item_id", "rating", "event_type"),
            [("27", "034545104X", "0", "implicit"), ("28", '0;1\\"', "5", "explicit")],
        ),
        (
            "Ratings.csv",
            lines("User-ID,ISBN,Book-Rating", "27,0155061224,10"),
            ("user_id", "item_id", "rating", "event_type"),
            [("27", "0155061224", "10", "explicit")],
        ),
    ],
    "goodreads": [
        (
            "goodreads_interactions_poetry.json",
            lines(
                goodreads("7", 5, is_read=True),
                goodreads("8", 0, is_read=True),
                goodreads("9", 0, is_read=False),
            ),
            ("user_id", "item_id", "timestamp", "rating", "event_type"),
            [
                ("8842281e", "7", "2017-11-10T19:06:02Z", "5", "rating"),
                ("8842281e", "8", "2017-11-10T19:06:02Z", "0", "read"),
                ("8842281e", "9", "2017-11-10T19:06:02Z", "0", "shelf"),
            ],
        ),
    ],
    "lastfm-1k": [
        (
            "userid-timestamp-artid-artname-traid-traname.tsv",
            lines(
                f'user_000001\t2009-05-04T23:08:57Z\t{TRACK}\tDeep "Dish\t\tFame, live',
                f"user_000001\t2009-05-04T13:54:10Z\t\tUnder\tworld\t{TRACK}\tOne\tTwo",
            ),
            ("user_id", "item_id", "timestamp"),
            [
                ("user_000001", 'Deep "Dish - Fame, live', "2009-05-04T23:08:57Z"),
                ("user_000001", TRACK, "2009-05-04T13:54:10Z"),
            ],
        ),
    ],
    "steam": [
        (
            "australian_user_items.json",
            lines(
                "{'user_id': 'js', 'items_count': 2, 'items': [{'item_id': '10', 'item_name': "
                "\"Day's\", 'playtime_forever': 6, 'playtime_2weeks': 0}, {'item_id': '20', "
                "'item_name': 'B', 'playtime_forever': 0, 'playtime_2weeks': 0}]}",
                "{'user_id': 'none', 'items_count': 0, 'items': []}",
                "{'user_id': 'ev', 'items_count': 1, 'items': [{'item_id': '20', 'item_name': "
                "'B', 'playtime_forever': 9, 'playtime_2weeks': 0}]}",
            ),
            ("user_id", "item_id", "value"),
            [("js", "10", 6), ("js", "20", 0), ("ev", "20", 9)],
        ),
        (
            "australian_user_reviews.json",
            lines(
                "{'user_id': 'js', 'user_url': 'u', 'reviews': [{'funny': '', 'posted': 'Posted "
                "June 24.', 'item_id': '1250', 'recommend': True, 'review': 'ok'}, {'funny': '', "
                "'posted': 'Posted May 1, 2011.', 'item_id': '22', 'recommend': False, 'review': "
                "''}]}"
            ),
            ("user_id", "item_id", "negative"),
            [("js", "1250", False), ("js", "22", True)],
        ),
        (
            "steam_reviews.json",
            lines(
                "{u'username': u'Ann\\xe9', u'hours': 0.1, u'product_id': u'725280', u'date': "
                "u'2017-12-17', u'text': u'\"fine\"', u'early_access': False, u'page': 1}"
            ),
            ("user_id", "item_id", "timestamp"),
            [("Anné", "725280", "2017-12-17")],
        ),
    ],
    "yoochoose": [
        (
            "yoochoose-clicks.dat",
            lines("1,2014-04-07T10:51:09.277Z,2145,0", "1,2014-04-07T10:54:09.868Z,2146,S"),
            ("user_id", "timestamp", "item_id", "category", "event_type"),
            [
                ("1", "2014-04-07T10:51:09.277Z", "2145", "0", "click"),
                ("1", "2014-04-07T10:54:09.868Z", "2146", "S", "click"),
            ],
        ),
        (
            "yoochoose-buys.dat",
            lines("42,2014-04-06T18:44:58.314Z,2147,12462,2"),
            ("user_id", "timestamp", "item_id", "price", "quantity", "event_type", "value"),
            [("42", "2014-04-06T18:44:58.314Z", "2147", "12462", "2", "buy", 24924)],
        ),
    ],
    "retailrocket": [
        (
            "events.csv",
            lines(
                "timestamp,visitorid,event,itemid,transactionid",
                "1433221332117,257,transaction,355,4000",
                "1433224214164,992,view,248,",
            ),
            ("user_id", "item_id", "timestamp", "event_type"),
            [
                ("257", "355", "1433221332117", "transaction"),
                ("992", "248", "1433224214164", "view"),
            ],
        ),
    ],
    "diginetica": [
        (
            "train-item-views.csv",
            lines(
                "sessionId;userId;itemId;timeframe;eventdate",
                "1;NA;81766;526309;2016-05-09",
                "2;12;32118;86400001;2016-05-10",
            ),
            ("user_id", "item_id", "timestamp", "event_type"),
            [
                ("1", "81766", "2016-05-09T00:08:46.309Z", "view"),
                ("2", "32118", "2016-05-11T00:00:00.001Z", "view"),
            ],
        ),
        (
            "train-purchases.csv",
            lines(
                "sessionId;userId;timeframe;eventdate;ordernumber;itemId",
                "150;18278;17100868;2016-05-06;16421;25911",
            ),
            ("user_id", "item_id", "timestamp", "event_type"),
            [("150", "25911", "2016-05-06T04:45:00.868Z", "purchase")],
        ),
    ],
    "taobao": [
        (
            "UserBehavior.csv",
            lines("1,2268318,2520377,pv,1511544070", "1,2333346,2520771,buy,1511561733"),
            ("user_id", "item_id", "category", "event_type", "timestamp"),
            [
                ("1", "2268318", "2520377", "pv", "1511544070"),
                ("1", "2333346", "2520771", "buy", "1511561733"),
            ],
        ),
    ],
    "hm": [
        (
            "transactions_train.csv",
            lines(
                "t_dat,customer_id,article_id,price,sales_channel_id",
                "2018-09-20,000058a1,0663713001,0.0508,2",
                "2018-09-20,000058a1,663713001,0.0305,1",
            ),
            ("user_id", "item_id", "timestamp", "value"),
            [
                ("000058a1", "0663713001", "2018-09-20", "0.0508"),
                ("000058a1", "663713001", "2018-09-20", "0.0305"),
            ],
        ),
    ],
    "otto": [
        (
            "otto-recsys-train.jsonl",
            lines(
                '{"session":0,"events":[{"aid":15,"ts":1659304800025,"type":"clicks"},'
                '{"aid":9,"ts":1659304904511,"type":"orders"}]}',
                '{"session":1,"events":[]}',
                '{"session":2,"events":[{"aid":15,"ts":1659304805025,"type":"carts"}]}',
            ),
            ("user_id", "item_id", "timestamp", "event_type"),
            [
                (0, 15, 1659304800025, "clicks"),
                (0, 9, 1659304904511, "orders"),
                (2, 15, 1659304805025, "carts"),
            ],
        ),
    ],
    "mind": [
        (
            "behaviors.tsv",
            lines(
                "1\tU13\t1/2/2019 12:05:58 AM\tN55189 N42782\tN55689-1 N35729-0",
                "2\tU91\t11/12/2019 6:11:30 PM\t\tN20678-0 N39317-0 N58133-1 N17-1",
            ),
            ("user_id", "item_id", "timestamp", "impression_id", "position"),
            [
                ("U13", "N55689", "2019-01-02T00:05:58Z", "1", 1),
                ("U91", "N58133", "2019-11-12T18:11:30Z", "2", 3),
                ("U91", "N17", "2019-11-12T18:11:30Z", "2", 4),
            ],
        ),
    ],
    "kuairec": [
        (
            "small_matrix.csv",
            lines(
                "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio",
                "14,148,4381,6067,2020-07-05 05:27:48.378,20200705.0,1593898068.378,0.722",
            ),
            ("user_id", "item_id", "timestamp", "value"),
            [("14", "148", "1593898068.378", "0.722")],
        ),
    ],
    "kuairand": [
        (
            "log_standard_4_08_to_4_21_pure.csv",
            lines(
                KUAIRAND,
                "0,11,20220422,1900,1650621600001,0,0,0,0,0,0,0,0,5000,0,0,0,1,0",
                "0,12,20220422,1900,1650621600002,1,0,0,0,0,0,1,4500,5000,0,0,0,1,0",
                "0,13,20220422,1900,1650621600003,0,0,0,0,0,1,0,10,5000,0,0,0,1,0",
                "1,12,20220422,1900,1650621600004,1,0,0,0,0,0,0,20,5000,0,0,0,1,0",
                "1,13,20220422,1900,1650621600005,1,1,0,0,0,0,1,30,5000,0,0,0,1,0",
            ),
            ("user_id", "item_id", "timestamp", "event_type", "value", "negative"),
            [
                ("0", "12", "1650621600002", "long_view", "4500", False),
                ("0", "13", "1650621600003", "hate", "10", True),
                ("1", "12", "1650621600004", "click", "20", False),
                ("1", "13", "1650621600005", "like", "30", False),
            ],
        ),
    ],
    "gowalla": [
        (
            "loc-gowalla_totalCheckins.txt",
            lines("0\t2010-10-19T23:55:27Z\t30.2359\t-97.79513\t22847"),
            ("user_id", "timestamp", "latitude", "longitude", "item_id"),
            [("0", "2010-10-19T23:55:27Z", "30.2359", "-97.79513", "22847")],
        ),
    ],
    "foursquare": [
        (
            "dataset_TSMC2014_NYC.txt",
            lines(f"{PLACE}\tArts & Caf\t40.71\t-74.00\t-240\tTue Apr 03 18:00:09 +0000 2012"),
            ("user_id", "item_id", "latitude", "longitude", "minutes", "timestamp"),
            [("470", "49bbd6c0", "40.71", "-74.00", "-240", "2012-04-03T18:00:09Z")],
        ),
        (
            "dataset_WWW_Checkins_anonymized.txt",
            lines("50756\t4f5e3a72\tTue Apr 03 18:00:06 +0000 2012\t240"),
            ("user_id", "item_id", "timestamp", "minutes"),
            [("50756", "4f5e3a72", "2012-04-03T18:00:06Z", "240")],
        ),
    ],
}
CASES = [
    pytest.param(name, *case, id=f"{name} {case[0]}")
    for name, cases in SAMPLES.items()
    for case in cases
]


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def open_auto(path, format_name="auto"):
    return open_table(path, format_name, lambda _: False)


def rows_of(table):
    return table.frame.collect().rows()


def test_each_format_of_a_data_set_has_a_sample():
    assert set(SAMPLES) == {name for name, reader in READERS.items() if reader.recognise}


@pytest.mark.parametrize(("format_name", "name", "text", "columns", "rows"), CASES)
def test_a_data_set_is_recognised_and_read(tmp_path, format_name, name, text, columns, rows):
    table = open_auto(write(tmp_path, name, text))
    assert table.names == columns
    assert rows_of(table) == rows
    assert table.layout.startswith(f"{format_name}: ")
    named = open_auto(write(tmp_path, "other.name", text), format_name)
    assert rows_of(named) == rows


@pytest.mark.parametrize(("format_name", "name", "text", "columns", "rows"), CASES)
def test_a_compressed_data_set_is_recognised_and_read(
    tmp_path, format_name, name, text, columns, rows
):
    table = open_auto(write(tmp_path, f"{name}.gz", text))
    assert (table.names, rows_of(table)) == (columns, rows)


@pytest.mark.parametrize(("format_name", "name", "text", "columns", "rows"), CASES)
def test_only_one_format_recognises_a_data_set(tmp_path, format_name, name, text, columns, rows):
    recognised = [
        other
        for other, reader in READERS.items()
        if reader.recognise and reader.recognise(name, text.splitlines())
    ]
    assert recognised == [format_name]


@pytest.mark.parametrize(("format_name", "name", "text", "columns", "rows"), CASES)
def test_a_bad_line_is_rejected_with_its_number(tmp_path, format_name, name, text, columns, rows):
    path = write(tmp_path, name, text + "what is this?\n")
    number = len(text.splitlines()) + 1
    with pytest.raises(DataError, match=rf"{name}:{number}: "):
        read_interactions(path, format=format_name)


@pytest.mark.parametrize(
    ("name", "locations"),
    [
        ("netflix", ["combined_data_1.txt:2", "combined_data_1.txt:3", "combined_data_1.txt:5"]),
        (
            "steam",
            [f"australian_user_items.json:{n}" for n in (1, 1, 3)],
        ),
        ("otto", [f"otto-recsys-train.jsonl:{n}" for n in (1, 1, 3)]),
        ("mind", [f"behaviors.tsv:{n}" for n in (1, 2, 2)]),
        ("kuairand", [f"log_standard_4_08_to_4_21_pure.csv:{n}" for n in (3, 4, 5, 6)]),
    ],
)
def test_rows_are_located_where_a_line_is_not_a_row(tmp_path, name, locations):
    file, text, _, rows = SAMPLES[name][0]
    table = open_auto(write(tmp_path, file, text))
    assert [table.locate(row) for row in range(len(rows))] == locations


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("diginetica", "3;NA;1;soon;2016-05-09", "timestamp is '2016-05-09 \\+ soon'"),
        ("otto", '{"session":3,"events":[3]}', "events is no list of objects"),
        ("otto", '{"session":3,"events":{"aid":1}}', "events is no list of objects"),
        ("otto", '{"session":3,"events":[{"ts":1,"type":"clicks"}]}', "column item_id"),
        ("steam", "{'user_id': 'x', 'items': [{'item_id': 1}]}", "playtime_forever"),
        ("goodreads", goodreads("7", 5, is_read=True).replace("Fri", "On"), "'On Nov 10"),
        ("netflix", "14,6,2005-09-06", "the line is not one of blocks"),
        ("hm", "soon,a,1,0.1,2", "'soon'"),
    ],
)
def test_a_bad_value_is_rejected_with_its_line(tmp_path, name, line, problem):
    file, text, _, _ = SAMPLES[name][0]
    path = write(tmp_path, file, f"{text}{line}\n")
    with pytest.raises(DataError, match=rf"{file}:{len(text.splitlines()) + 1}: .*{problem}"):
        read_interactions(path, format=name)


def test_a_bad_line_far_down_does_not_hide_the_data_set(tmp_path):
    path = write(tmp_path, "a.dat", "1::1193::5::978300760\n" * 30 + "1::2::3\n")
    with pytest.raises(DataError, match=r"a\.dat:31: the line is not user::item::rating::seconds"):
        open_auto(path)


def test_names_of_columns_turn_the_formats_of_data_sets_off(tmp_path):
    _, text, _, _ = SAMPLES["diginetica"][0]
    path = write(tmp_path, "train-item-views.csv", text.replace("NA", "11"))
    log = read_interactions(path, columns={"user_id": "userId"})
    assert log.user_ids.to_list() == ["11", "12"]


def test_a_file_of_another_data_set_is_rejected(tmp_path):
    path = write(tmp_path, "a.csv", "user_id,item_id\n1,2\n")
    with pytest.raises(DataError, match=r"a\.csv:1: there is no column 't_dat'"):
        open_auto(path, "hm")
    with pytest.raises(DataError, match=r"a\.csv:1: the line is not user, item, category"):
        open_auto(path, "taobao")


def test_ratings_before_the_first_item_are_rejected(tmp_path):
    path = write(tmp_path, "a.txt", "14,3,2005-09-06\n1:\n15,3,2005-09-06\n")
    with pytest.raises(DataError, match=r"a\.txt:1: the line is not one of blocks"):
        open_auto(path, "netflix")


def test_impressions_without_marked_clicks_are_rejected(tmp_path):
    path = write(tmp_path, "behaviors.tsv", "1\tU1\t11/11/2019 9:05:58 AM\tN1\tN2 N3\n")
    with pytest.raises(DataError, match=r"behaviors\.tsv:1: .* news with -0 or -1"):
        open_auto(path, "mind")


@pytest.mark.parametrize(
    ("name", "text", "item"),
    [
        ("BX-Book-Ratings.csv", '"User-ID";"ISBN";"Book-Rating"\n"27";"01\xe95";"5"\n', "01\xe95"),
        (
            "dataset_TSMC2014_TKY.txt",
            f"{PLACE}\tCaf\xe9\t40.71\t-74.00\t-240\tTue Apr 03 18:00:09 +0000 2012\n",
            "49bbd6c0",
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_latin_1_is_read_where_a_data_set_has_it(tmp_path, name, text, item, encoding, suffix):
    table = open_auto(write(tmp_path, name + suffix, text, encoding))
    assert table.frame.collect()["item_id"].to_list() == [item]


def test_latin_1_is_rejected_elsewhere(tmp_path):
    path = write(tmp_path, "a.csv", "user_id,item_id\n\xe9,1\n", "latin-1")
    with pytest.raises(DataError, match=r"a\.csv:2: the line is not UTF-8"):
        open_auto(path)


@pytest.mark.parametrize(("format_name", "name", "text", "columns", "rows"), CASES)
def test_a_data_set_is_the_same_log_in_memory_and_on_disk(
    tmp_path, format_name, name, text, columns, rows
):
    path = write(tmp_path, name, text)
    target = tmp_path / "rows.parquet"
    log = read_interactions(path)
    assert len(log) == len(rows)
    streamed = stream_interactions(path, target, PrepareConfig())
    frame = pl.read_parquet(target)
    for column in ("user_id", "item_id"):
        ids = log.frame()[column]
        assert frame[column].cast(pl.String).to_list() == ids.cast(pl.String).to_list()
    assert streamed.id_types == log.id_types
    for column, values in log.columns.items():
        assert frame[column].cast(streamed.types[column]).equals(values)


def test_a_data_set_is_prepared_by_duckdb_as_in_memory(tmp_path):
    pytest.importorskip("duckdb")
    blocks = [
        f"{item}:\n" + lines(*(f"{user},{1 + user % 5},2005-09-{item + 9}" for user in range(9)))
        for item in range(1, 9)
    ]
    path = write(tmp_path, "combined_data_1.txt.gz", "".join(blocks))
    config = PrepareConfig(k_core=3)
    here = prepare(path, tmp_path / "memory", config)
    there = prepare(path, tmp_path / "duckdb", config, memory="500MB")
    assert there.fingerprint == here.fingerprint
    assert here.n_items == 8
    ratings = pl.concat([part.columns["rating"] for part in (here.train, here.valid, here.test)])
    assert sorted(set(ratings.to_list())) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("yoochoose", ["click"]),
        ("goodreads", ["shelf", "read", "rating"]),
        ("book-crossing", ["implicit", "explicit"]),
        ("taobao", ["pv", "buy"]),
        ("retailrocket", ["view", "transaction"]),
        ("otto", ["clicks", "carts", "orders"]),
        ("kuairand", ["hate", "click", "long_view", "like"]),
    ],
)
def test_event_types_are_ordered_from_weak_to_strong(tmp_path, name, types):
    file, text, _, _ = SAMPLES[name][0]
    log = read_interactions(write(tmp_path, file, text))
    assert log.columns["event_type"].dtype.categories.to_list() == types


def test_the_report_names_the_data_set(tmp_path):
    file, text, _, _ = SAMPLES["gowalla"][0]
    log = read_interactions(write(tmp_path, file, text))
    assert "taken for gowalla: user, time, latitude, longitude, place (tabs)" in log.report.line()

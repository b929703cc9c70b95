"""`moderation import`, `export` and `users`, and the import behind the first of them."""

import json

import pytest
from conftest import SAMPLES

from moderation.schema import LABELS, UserError, Verdict
from moderation.score import InputError
from moderation.store import Filter, Store, take_in

pytest_plugins = ["databases"]


class Pretender:
    """Stands in for `Moderator`: what is long is spam. Counts what it was asked."""

    version = "pretender-1"

    @property
    def manifest(self):
        return {"version": self.version, "thresholds": {"spam": {"review": 0.3}}}

    def __init__(self, fail_after=None):
        self.asked, self.fail_after = 0, fail_after

    def current(self):
        return self

    def predict(self, comments):
        comments = list(comments)
        if self.fail_after is not None and self.asked >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += len(comments)
        chances = [min(len(comment.text), 100) / 100 for comment in comments]
        return [
            Verdict("spam", dict(zip(LABELS, (1 - chance, 0, chance, 0), strict=True)), "review", "long", self.version)
            for chance in chances
        ]


def rows(path, n, bad=0):
    lines = [
        json.dumps({"comment_id": f"c{index}", "comment_text": f"remark {index}", "article_title": "Bridge"})
        for index in range(n)
    ]
    path.write_text("\n".join(lines + ['{"comment_text": ""}'] * bad) + "\n")
    return path


def test_files_go_into_the_queue_and_what_cannot_be_read_is_listed_beside(store, tmp_path):
    source, seen = rows(tmp_path / "in.jsonl", 1200, bad=3), []
    done = take_in(store, [source], Pretender(), rejects=tmp_path / "in.rejects.jsonl", progress=seen.append)
    assert (done.imported.new, done.scored, done.set_aside, done.labels["spam"]) == (1200, 1200, 3, 1200)
    assert seen[0] == 0 and seen[-1] == 1203 and store.queue.count() == 1200
    rejects = [json.loads(line) for line in done.rejects.read_text().splitlines()]
    assert len(rejects) == 3 and rejects[0]["position"] and done.reasons.total() == 3
    assert [model.version for model in store.library.models()] == ["pretender-1"]
    assert not list(tmp_path.glob("*.partial"))
    again = take_in(store, [source], (model := Pretender()))
    assert (again.imported.new, again.imported.known, again.scored, model.asked) == (0, 1200, 0, 0)


def test_an_interrupted_import_goes_on_where_it_was(store, tmp_path):
    source = rows(tmp_path / "in.jsonl", 1500)
    with pytest.raises(KeyboardInterrupt):
        take_in(store, [source], Pretender(fail_after=1000))
    kept = store.queue.count()
    assert 0 < kept < 1500
    done = take_in(store, [source], (model := Pretender()))
    assert store.queue.count() == 1500 and model.asked == done.scored == 1500 - kept


def test_a_status_that_changed_on_the_site_follows(store, tmp_path):
    source = tmp_path / "in.jsonl"
    for status in ("pending", "approved"):
        source.write_text(json.dumps({"comment_id": "1", "comment_text": "x y", "status": status}) + "\n")
        take_in(store, [source], Pretender())
    assert store.queue.count(Filter(statuses=["approved"])) == 1 == store.queue.count()


def test_an_input_that_cannot_be_read_is_an_input_error(store, tmp_path):
    with pytest.raises(InputError):
        take_in(store, [tmp_path / "absent.csv"], Pretender())


def test_import_prints_what_it_did(tmp_path, monkeypatch, capsys):
    from moderation import desk_cli

    monkeypatch.setattr("moderation.model.Moderator.from_pretrained", lambda *arguments: Pretender())
    monkeypatch.chdir(tmp_path)
    desk_cli.import_([str(SAMPLES)], database="x.db")
    printed = capsys.readouterr().out
    assert "57 new, 0 known" in printed and "57 undecided comments in sqlite:///x.db" in printed


def test_users_are_made_listed_and_disabled(command, tmp_path):
    (tmp_path / "password").write_text("correct horse battery\n")
    database = ("--database", "desk.db")
    assert "this machine only" in command("users", "list", *database).stdout.decode()
    assert command("users", "add", "ada", "--role", "admin", "--password-file", "password", *database).returncode == 0
    assert command("users", "add", "bob", *database, stdin=b"another long password\n").returncode == 0
    assert command("users", "disable", "bob", *database).returncode == 0
    assert command("users", "list", *database).stdout.decode().splitlines() == [
        "ada\tadmin\tactive",
        "bob\tmoderator\tdisabled",
    ]
    with Store(tmp_path / "desk.db") as store:
        assert store.people.verify("ada", "correct horse battery").role == "admin"


def test_export_writes_what_was_decided(command, tmp_path, monkeypatch):
    monkeypatch.setenv("MODERATION_DATABASE_URL", f"sqlite:///{tmp_path}/desk.db")
    with Store() as store:
        take_in(store, [rows(tmp_path / "in.jsonl", 3)], Pretender())
        store.decisions.decide(1, "ada", "spam", "k")
    for arguments, expected in [
        (["--labels", "--out", "a.jsonl"], 1),
        (["--decisions", "--out", "b.csv"], 1),
        (["--out", "c"], 3),
    ]:
        done = command("export", *arguments)
        assert done.returncode == 0 and f"{expected} rows: {arguments[-1]}" in done.stdout.decode(), done.stderr
    [row] = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert (row["comment_id"], row["label"], row["decided_by"]) == ("c0", "spam", "ada")
    assert (tmp_path / "c" / "dataset_info.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import", "absent.csv"], 3, "absent.csv"),
        (["import", "in.csv", "--map", "nonsense"], 2, "expected NAME=COLUMN"),
        (["import", "in.csv", "--database", "nowhere/at/all.db"], 2, "unable to open"),
        (["export", "--labels", "--decisions", "--out", "x.csv"], 2, "one of them"),
        (["export", "--out", "x.doc"], 2, ".jsonl"),
        (["export", "--out", "in.csv/x.csv"], 1, "cannot be written"),
        (["users", "add"], 2, "name the user"),
        (["users", "disable", "nobody"], 2, "no user nobody"),
        (["users", "add", "ada", "--password-file", "absent"], 2, "cannot read the password"),
        (["users", "list", "--database", "postgresql://u:secret@127.0.0.1:1/x"], 2, "cannot be opened"),
    ],
)
def test_a_mistake_is_one_line_with_an_exit_code(command, tmp_path, arguments, code, message):
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    done = command(*arguments)
    errors = done.stderr.decode()
    assert done.returncode == code and message in errors and "secret" not in errors, errors
    assert "Traceback" not in errors and len(errors.strip().splitlines()) == 1


def test_a_full_disk_is_said_in_one_line(tmp_path):
    with Store(tmp_path / "small.db") as store:
        with store.database.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        store.database.close()  # the limit holds for one connection: it must be the one that writes

        def shrink(connection):
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
            connection.exec_driver_sql("CREATE TABLE heavy (x)")
            connection.exec_driver_sql("INSERT INTO heavy VALUES (zeroblob(1000000))")

        with pytest.raises(UserError, match="full"):
            store.database.write(shrink)

"""The ray engine on a real cluster: two nodes on this machine, one of which is killed; interrupted runs; hostile input."""

import json
import os
import random
import secrets

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moderation.schema import ROW_FIELDS, VERDICT_FIELDS, UserError
from moderation.score import InputError, OutputError, score
from moderation.spread import spread

ARTICLES, COMMENTS = 16, 20


def rows():
    """Comments of each article, an empty one among them, each with the number of the comment that it answers."""
    for article in range(ARTICLES):
        for number in range(COMMENTS):
            yield {
                "comment_id": f"a{article}c{number}",
                "comment_text": "" if number == 13 else f"Remark {number}: who pays for bridge {article}?",
                "article_id": f"article-{article}",
                "article_title": f"Bridge {article} closes",
                "article_text": f"The council closes bridge {article}. It is cracked. Repairs cost {article} million.",
                "parent_id": f"a{article}c{number - 1}" if number else "",
            }


def write(path, table, group=50):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(table)), path, row_group_size=group)


def plan(out):
    return json.loads((out / "_run" / "plan.json").read_text())["blocks"]


def receipts(out):
    return {path.name: json.loads(path.read_text()) for path in (out / "_run" / "done").glob("*.json")}


def rejects(out):
    return [json.loads(line) for path in sorted((out / "_rejects").glob("*")) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def cluster():
    """A head that works on nothing and two nodes of one core each, as far as Ray knows, with their own raylets."""
    kept = dict(os.environ)
    # Workers otherwise yield to everything else on the machine; and only this test may use the cluster.
    os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0", "MODERATION_RUNTIME": "torch"}
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray
    from ray.cluster_utils import Cluster

    def start():
        nodes = Cluster()
        try:
            nodes.add_node(num_cpus=0, object_store_memory=100 << 20, include_dashboard=False)
            for _ in range(2):
                nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
            ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
            nodes.wait_for_nodes(timeout=300)
        except BaseException:
            stop(nodes)
            raise
        return nodes

    def stop(nodes):
        ray.shutdown()
        nodes.shutdown()

    try:
        nodes = patiently(start)
        yield nodes
        stop(nodes)
    finally:
        os.environ.clear()
        os.environ.update(kept)


def patiently(start):
    """What `start` gives at the first, second or third attempt; Ray gives each of its processes 30 seconds to come up.

    Only a machine that was overloaded before Ray was started excuses a failure: then the test is skipped, with the load.
    """
    for attempt in range(3):
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))  # before: Ray itself brings load
        try:
            return start()
        except Exception as error:
            print(f"Ray did not start (attempt {attempt + 1}, load {load:.1f} on {cores} cores): {error}")
            if attempt == 2 and load > 2 * cores:
                pytest.skip(f"this machine is too busy to start Ray: load {load:.1f} on {cores} cores; {error}")
            if attempt == 2:
                raise


class Stopped(Exception):
    """Stands for a run that is interrupted."""


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_node_is_killed_in_the_middle_and_no_row_is_missing_or_there_twice(cluster, moderator, tmp_path):
    scattered = list(rows())
    random.Random(1).shuffle(scattered)
    write(tmp_path / "in" / "one.parquet", scattered[:200])
    write(tmp_path / "in" / "two.parquet", scattered[200:])
    out, seen, killed = tmp_path / "out", [], []

    def kill_the_first_to_finish_a_block(done, total):
        seen.append(done)
        if done and not killed:
            first = min((out / "_run" / "done").iterdir(), key=lambda path: path.stat().st_mtime_ns)
            [node] = [one for one in cluster.worker_nodes if one.node_id == json.loads(first.read_text())["machine"]]
            killed.append((done, node.node_id))
            cluster.remove_node(node, allow_graceful=False)

    summary = spread([str(tmp_path / "in")], str(out), block_rows=20, progress=kill_the_first_to_finish_a_block)
    [(moment, node)] = killed
    assert 0 < moment < len(scattered) and seen == sorted(seen) and seen[-1] == len(scattered)
    machines = {receipt["machine"] for receipt in receipts(out).values()}
    assert node in machines and len(machines) == 2  # the other one did the rest

    labelled = pq.read_table(out).to_pylist()  # what is beside the rows does not disturb who reads the folder
    given = [row for row in scattered if row["comment_text"]]
    assert sorted(row["comment_id"] for row in labelled) == sorted(row["comment_id"] for row in given)
    assert (summary.rows, summary.set_aside) == (len(given), ARTICLES) and sum(summary.labels.values()) == len(given)
    assert json.loads((out / "_SUCCESS").read_text())["rows"] == len(given)
    assert set(labelled[0]) == {*ROW_FIELDS, *VERDICT_FIELDS}
    # Each empty comment is set aside under the place where it stood in its own file.
    places = {
        (str(tmp_path / "in" / "one.parquet"), f"row {n + 1}")
        for n, row in enumerate(scattered[:200])
        if not row["comment_text"]
    }
    places |= {
        (str(tmp_path / "in" / "two.parquet"), f"row {n + 1}")
        for n, row in enumerate(scattered[200:])
        if not row["comment_text"]
    }
    assert {(reject["file"], reject["position"]) for reject in rejects(out)} == places
    # The comments were scattered over the files; each article was brought together, and its comments found their parents.
    parts = [{row["article_id"] for row in pq.read_table(part).to_pylist()} for part in out.glob("part-*.parquet")]
    assert sum(map(len, parts)) == ARTICLES and not (out / "_run" / "grouped").exists()
    assert all(row["parent_text"] for row in labelled if row["parent_id"] and not row["parent_id"].endswith("c13"))

    # It is the job of one machine: the same rows and verdicts.
    write(tmp_path / "whole.parquet", rows())
    score([tmp_path / "whole.parquet"], tmp_path / "whole.jsonl", moderator)
    alone = {row["comment_id"]: row for row in map(json.loads, (tmp_path / "whole.jsonl").read_text().splitlines())}
    for row in labelled:
        expected = alone[row["comment_id"]]
        assert [row[name] for name in ROW_FIELDS] == [expected[name] for name in ROW_FIELDS]
        assert abs(row["p_on_topic"] - expected["p_on_topic"]) < 0.05 and row["model_version"] == moderator.version


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_an_interrupted_run_is_taken_up_and_no_block_is_done_again(cluster, tmp_path):
    source, out = tmp_path / "in" / "ordered.parquet", tmp_path / "out"
    write(source, rows(), group=60)
    damaged = bytearray(source.read_bytes())
    chunk = pq.ParquetFile(source).metadata.row_group(3).column(1)
    first = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged[first : first + chunk.total_compressed_size] = bytes([0xFF]) * chunk.total_compressed_size
    source.write_bytes(damaged)

    def stop(done, total):
        if done >= 100:
            raise Stopped

    with pytest.raises(Stopped):
        spread([str(source)], str(out), block_rows=30, progress=stop)
    assert not (out / "_SUCCESS").exists()
    before = {path: path.stat().st_mtime_ns for path in [*out.glob("part-*"), *(out / "_run" / "done").iterdir()]}
    done = sum(receipt["rows"] + receipt["set_aside"] for receipt in receipts(out).values())
    assert 100 <= done < ARTICLES * COMMENTS
    lost = max(receipts(out))  # rows that vanished are not believed to be there
    (out / f"part-{lost.removesuffix('.json')}.parquet").unlink()

    with pytest.raises(OutputError, match="another run"):
        spread([str(source)], str(out), columns={"comment_text": "article_title"})
    summary = spread([str(source)], str(out), block_rows=30)
    assert 0 < summary.resumed < done
    for path, time in before.items():
        assert (path.stat().st_mtime_ns == time) == (lost.removesuffix(".json") not in path.name)
    # The damaged group of 60 rows is set aside row by row, the rest of the file is scored.
    assert summary.rows + summary.set_aside == ARTICLES * COMMENTS
    assert {reject["position"] for reject in rejects(out) if "damaged" in reject["reason"]} == {
        f"row {n}" for n in range(181, 241)
    }
    ids = [row["comment_id"] for row in pq.read_table(out).to_pylist()]
    assert ids == [row["comment_id"] for n, row in enumerate(rows()) if row["comment_text"] and not 180 <= n < 240]
    # Blocks end where an article ends.
    assert all(block["first"] % COMMENTS == 0 for block in plan(out))
    again = spread([str(source)], str(out))
    assert (again.rows, again.resumed) == (summary.rows, ARTICLES * COMMENTS)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_command_needs_no_cluster(command, tmp_path):
    write(tmp_path / "in" / "rows.parquet", rows())

    def score_it():
        done = command("score", "in", "--engine", "ray", "--out", "out", "--strict", timeout=700)
        if b"Ray cannot be started here" in done.stderr:
            raise RuntimeError(done.stderr.decode())
        return done

    done = patiently(score_it)
    printed = done.stdout.decode()
    assert done.returncode == 4, done.stderr
    assert not any(noise in done.stderr for noise in (b"Warning", b"core_worker", b"Traceback")), done.stderr
    assert (
        f"{ARTICLES * COMMENTS} rows: {ARTICLES * COMMENTS - ARTICLES} scored" in printed and "comment_text is empty" in printed
    )
    assert pq.read_table(tmp_path / "out").num_rows == ARTICLES * COMMENTS - ARTICLES


@pytest.mark.parametrize(
    ("paths", "out", "more", "kind", "message"),
    [
        (["absent.parquet"], "out", {}, InputError, "no such file"),
        (["nonsense://bucket"], "out", {}, InputError, "cannot be opened"),
        (["empty"], "out", {}, InputError, "holds no .parquet file"),
        (["in"], "in", {}, OutputError, "holds other files"),
        (["in"], "in/rows.parquet", {}, OutputError, "is a file"),
        (["in"], "out", {"columns": {"colour": "x"}}, UserError, "unknown column"),
        (["in"], "out", {"model": "absent"}, UserError, "no model here"),
    ],
)
def test_a_mistake_is_told_before_ray_is_started(tmp_path, monkeypatch, paths, out, more, kind, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in" / "rows.parquet", rows())
    (tmp_path / "empty").mkdir()
    with pytest.raises(kind, match=message):
        spread(paths, out, **more)


def test_an_address_where_nobody_listens_is_told_in_one_line(command, tmp_path):
    write(tmp_path / "in" / "rows.parquet", rows())
    done = command("score", "in", "--engine", "ray", "--ray-address", "127.0.0.1:9")
    assert done.returncode == 2 and b"no Ray cluster" in done.stderr and b"Traceback" not in done.stderr


def test_the_commands_options_belong_together(command):
    assert b"belong to --engine ray" in command("score", "x", "--ray-address", "here:1").stderr
    done = command("score", "x.parquet", "--engine", "ray", "--format", "csv")
    assert done.returncode == 2 and b"reads Parquet" in done.stderr and b"Traceback" not in done.stderr

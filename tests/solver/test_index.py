"""solver.index and solver.database: the two relations, in memory and on disk, and what they mean together."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, cast

import pytest

from inlay.digest import Digest
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.solver.database import VERSION, Database
from inlay.solver.index import MANY, CacheIndex, Memory
from inlay.solver.keys import CacheRecord, Link, RecordGraph, RecordNode, derived_key, output_key, stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inlay.solver.index import Relations

OLD, NEW = "2026-01-01T00:00:00Z", "2026-01-01T09:00:00.5+09:00"
NEWER = "2026-01-01T00:00:01Z"


def key(name: str) -> str:
    return output_key(f"sha256:{name}", 0)


ROOT, OTHER, STEP, TOP = key("root"), key("other"), key("step"), key("top")
LINK = Link(ROOT, 0, STEP, "sel")


def unexpected(message: str) -> None:
    pytest.fail(message)


class TestRelations:
    """The contract of whatever holds the relations."""

    @pytest.fixture(params=["memory", "database"])
    def relations(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Relations]:
        if request.param == "memory":
            yield Memory()
        else:
            database = Database(str(tmp_path / "cache.db"), warn=unexpected)
            yield database
            database.close()

    def test_a_link_leads_to_all_its_targets_and_each_target_knows_its_links(
        self, relations: Relations
    ) -> None:
        other = LINK._replace(input=1)
        relations.add([(LINK, "a"), (LINK, "b"), (other, "a"), (LINK, "a")])
        assert set(relations.targets(LINK)) == {"a", "b"}
        assert set(relations.links_to("a")) == {LINK, other}
        assert list(relations.targets(LINK._replace(selector=""))) == []
        relations.drop_links([(LINK, "a"), (LINK, "never there")])
        assert set(relations.targets(LINK)) == {"b"}
        assert relations.links_to("a") == [other]

    def test_what_is_dropped_is_gone_and_can_come_back(self, relations: Relations) -> None:
        record = CacheRecord("r", "a", OLD)
        for _ in range(2):
            relations.add([(LINK, "a")], [record])
            assert list(relations.targets(LINK)) == ["a"]
            assert relations.records("a") == [record]
            relations.drop_links([(LINK, "b"), (LINK, "a"), (LINK, "a")])
            relations.drop_record(record._replace(id="other"))
            relations.drop_record(record)
            assert list(relations.targets(LINK)) == []
            assert not relations.leads(LINK, "a")
            assert list(relations.links_to("a")) == []
            assert list(relations.links_from(ROOT)) == []
            assert list(relations.records("a")) == []

    def test_a_link_says_whether_it_leads_to_a_key_and_gives_some_targets_of_many(
        self, relations: Relations
    ) -> None:
        relations.add([(LINK, f"k{n}") for n in range(10)])
        assert relations.leads(LINK, "k3")
        assert not relations.leads(LINK, "k10")
        assert len(list(relations.targets(LINK, 3))) >= 3
        assert len(list(relations.targets(LINK))) == 10

    def test_records_come_last_added_first_and_are_replaced_by_id(self, relations: Relations) -> None:
        records = [CacheRecord(f"r{n}", "k", OLD) for n in range(3)]
        relations.add([], records)
        relations.add([], [records[1]._replace(created=NEW)])
        assert relations.records("k") == [records[1]._replace(created=NEW), records[2], records[0]]
        relations.drop_record(records[2])
        assert [record.id for record in relations.records("k")] == ["r1", "r0"]
        assert relations.records("no such") == []


class TestIndex:
    def test_random_keys_lead_nowhere_and_are_not_kept(self) -> None:
        index = CacheIndex()
        link = Link("random:1", 0, STEP)
        index.add("k", [link, LINK], CacheRecord("r", "k", OLD))
        index.add("random:2", [LINK], CacheRecord("r", "random:2", OLD))
        assert index.targets([link]) == frozenset()
        assert index.targets([LINK]) == {"k"}
        assert index.links_to("k") == [LINK]
        assert index.records(["random:2"]) == []

    def test_records_are_newest_first_whatever_their_time_zone(self) -> None:
        index = CacheIndex()
        index.add("k", [], CacheRecord("old", "k", OLD))
        index.add("k", [], CacheRecord("new", "k", NEW))
        index.add("j", [], CacheRecord("newer", "j", NEWER))
        assert [record.id for record in index.records(["k", "j"])] == ["newer", "new", "old"]

    def test_of_equal_age_the_last_one_comes_first(self) -> None:
        index = CacheIndex()
        for name in ("first", "second"):
            index.add("k", [], CacheRecord(name, "k", OLD))
        assert [record.id for record in index.records(["k"])] == ["second", "first"]

    def test_of_local_ones_the_last_comes_first_though_it_may_say_that_it_is_older(self) -> None:
        local = Memory()
        for name, created in (("first", NEW), ("last", OLD)):
            CacheIndex(local).add("k", [], CacheRecord(name, "k", created))
        assert [record.id for record in CacheIndex(local).records(["k"])] == ["last", "first"]

    def test_a_record_whose_time_cannot_be_read_is_the_oldest(self) -> None:
        index = CacheIndex()
        index.add("k", [], CacheRecord("odd", "k", "once"), CacheRecord("old", "k", OLD))
        assert [record.id for record in index.records(["k"])] == ["old", "odd"]

    def test_the_same_links_make_the_same_key_and_a_known_key_is_found_by_any_of_them(self) -> None:
        one, two = CacheIndex(), CacheIndex()
        ways = [[(ROOT, "sel"), (OTHER, "sel")]]
        name = one.identify(STEP, ways)
        assert name == two.identify(STEP, [ways[0][::-1]])
        one.add(name, [Link(source, 0, STEP, "sel") for source, _ in ways[0]])
        assert one.identify(STEP, [[(OTHER, "sel")]]) == name

    def test_a_key_is_known_only_when_every_input_leads_to_it(self) -> None:
        index = CacheIndex()
        index.add("k", [Link(ROOT, 0, STEP), Link(ROOT, 1, STEP)])
        assert index.identify(STEP, [[(ROOT, "")], [(ROOT, "")]]) == "k"
        assert index.identify(STEP, [[(ROOT, "")], [(OTHER, "")]]) != "k"

    def test_inputs_that_lead_to_very_many_keys_have_in_common_what_the_others_say(self) -> None:
        index = CacheIndex()
        many = Link(ROOT, 0, STEP)
        for n in range(3 * MANY):
            index.add(f"k{n:03}", [many, Link(OTHER, 1, STEP), Link(key(str(n % 100)), 2, STEP)])
        assert index.common([[many], [Link(key("7"), 2, STEP)]]) == {"k007", "k107"}
        assert len(index.common([[many], [Link(OTHER, 1, STEP)]])) == 3 * MANY
        assert index.common([[many], [Link(TOP, 1, STEP)]]) == frozenset()

    def test_what_is_known_by_random_keys_only_is_random(self) -> None:
        assert derived_key(STEP, [[("random:1", "")], [(ROOT, "")]]).startswith("random:")
        assert derived_key(STEP, [[("random:1", ""), (ROOT, "")]]).startswith("sha256:")

    def test_definitions_come_to_lead_where_content_leads_and_no_longer_elsewhere(self) -> None:
        index = CacheIndex()
        content = Link(OTHER, 0, STEP)
        index.add("then", [LINK])
        index.add("now", [content])
        assert index.agree([LINK], content) == {"now"}
        assert index.targets([LINK]) == {"now"}

    def test_a_step_is_never_linked_to_itself(self) -> None:
        index = CacheIndex()
        content = Link(OTHER, 0, STEP)
        index.add("k", [content])
        index.agree([Link("k", 0, STEP, "sel")], content)
        assert index.targets([Link("k", 0, STEP, "sel")]) == frozenset()


def layer(name: object) -> Descriptor:
    return Descriptor(OCI_LAYER_GZIP, Digest.of(str(name)), 1)


def imported() -> RecordGraph:
    """root -> step -> top; the layers of step are the lower ones of top's."""
    low = stack([layer("a")])
    chain = stack([layer("a"), layer("b")])
    assert chain is not None
    assert low is not None
    return [
        RecordNode(ROOT),
        RecordNode(STEP, ((("sel", 0),),), ((chain.parent or low, OLD),)),
        RecordNode(TOP, ((("", 1),),), ((chain, NEW),)),
    ]


class TestImports:
    def test_an_import_is_found_and_leaves_the_file_alone(self) -> None:
        local = Memory()
        index = CacheIndex(local)
        index.ingest(imported())
        (step,) = index.targets([LINK])
        (top,) = index.targets([Link(step, 0, TOP)])
        (record,) = index.records([top])
        assert record.remote is not None
        assert [each.digest for each in record.remote.descriptors()] == [Digest.of("a"), Digest.of("b")]
        assert list(local.targets(LINK)) == []

    def test_a_key_that_was_made_here_and_one_that_is_imported_are_one(self) -> None:
        index = CacheIndex()
        name = index.identify(STEP, [[(ROOT, "sel")]])
        index.add(name, [LINK], CacheRecord("here", name, OLD))
        index.ingest(imported())
        assert index.targets([LINK]) == {name}
        assert [record.id for record in index.records([name])] == ["here", "import:1"], (
            "the one at hand first"
        )

    def test_two_imports_of_the_same_are_one(self) -> None:
        index = CacheIndex()
        index.ingest(imported())
        index.ingest(imported())
        assert len(index.targets([LINK])) == 1

    def test_a_content_link_decides_what_an_imported_key_is(self) -> None:
        one, two = output_key("sha256:one", -1), output_key("sha256:two", -1)

        def graph(content: str) -> RecordGraph:
            return [RecordNode(ROOT), RecordNode(content), RecordNode(STEP, ((("sel", 0), ("", 1)),))]

        index = CacheIndex()
        index.ingest(graph(one))
        index.ingest(graph(two))
        assert index.targets([Link(one, 0, STEP)]).isdisjoint(index.targets([Link(two, 0, STEP)]))

    def test_what_hangs_on_a_random_record_is_left_out(self) -> None:
        index = CacheIndex()
        index.ingest(
            [RecordNode("random:1"), RecordNode(STEP, ((("sel", 0),),)), RecordNode(TOP, ((("", 1),),))]
        )
        assert index.targets([Link("random:1", 0, STEP, "sel")]) == frozenset()

    def test_a_used_record_is_adopted_with_what_it_was_made_from(self) -> None:
        local = Memory()
        index = CacheIndex(local)
        index.ingest(imported())
        (step,) = index.targets([LINK])
        (top,) = index.targets([Link(step, 0, TOP)])
        (record,) = index.records([top])
        assert record.remote is not None
        below = index.imported(index.passed_through(top), record.remote)
        assert {each.key for each in below} == {step, top}
        index.adopt(top, [(each, f"kept {each.key == top}") for each in below])
        later = CacheIndex(local)
        assert later.targets([LINK]) == {step}
        assert later.records([top]) == [CacheRecord("kept True", top, NEW)]
        assert later.records([step]) == [CacheRecord("kept False", step, OLD)]

    def test_of_what_it_was_made_from_all_is_adopted_whose_layers_are_its_own(self) -> None:
        top = stack([layer("base"), layer("linked")])
        alone, elsewhere = stack([layer("linked")]), stack([layer("base"), layer("other")])
        assert top is not None
        assert alone is not None
        assert elsewhere is not None
        index = CacheIndex(Memory())
        keys = index.ingest(
            [
                RecordNode(ROOT),
                RecordNode(key("linked"), ((("", 0),),), ((alone, OLD),)),
                RecordNode(key("other"), ((("", 0),),), ((elsewhere, OLD),)),
                RecordNode(key("merged"), ((("", 1),), (("", 2),)), ((top, NEW),)),
            ]
        )
        found = index.imported(index.passed_through(keys[3]), top)
        assert {each.key for each in found} == {keys[1], keys[3]}

    def test_five_thousand_records_are_taken_in_and_found_in_linear_time(self) -> None:
        def seconds(count: int) -> float:
            graph = [RecordNode(ROOT)]
            graph += [RecordNode(key(f"s{n}"), ((("sel", n),),)) for n in range(count)]
            before = time.process_time()
            index = CacheIndex()
            index.ingest(graph)
            found: frozenset[str] = frozenset({ROOT})
            for n in range(count):
                found = index.targets(Link(each, 0, graph[n + 1].digest, "sel") for each in found)
            assert len(found) == 1
            return time.process_time() - before

        seconds(100)
        assert seconds(8000) < 6 * seconds(2000) + 0.1


class TestDatabase:
    def open(self, folder: Path, warnings: list[str] | None = None) -> Database:
        return Database(
            str(folder / "cache.db"), warn=warnings.append if warnings is not None else unexpected
        )

    def test_what_was_added_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        database.add([(LINK, "k")], [CacheRecord("r", "k", OLD)])
        database.close()
        database = self.open(tmp_path)
        assert database.targets(LINK) == ["k"]
        assert database.records("k") == [CacheRecord("r", "k", OLD)]
        database.close()

    def test_results_that_are_dropped_take_along_the_links_that_lead_nowhere(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        dead = Link("a", 0, "db")
        database.add(
            [(dead, "b"), (Link("b", 0, "dc"), "c"), (Link("a", 0, "dd"), "d"), (Link("d", 0, "de"), "e")],
            [CacheRecord("rb", "b", OLD), CacheRecord("rc", "c", OLD), CacheRecord("re", "e", OLD)],
        )
        assert database.results() == {"rb", "rc", "re"}
        database.drop_results(["rb"])
        assert database.targets(dead) == ["b"], "its key still leads to c"
        database.drop_results(["rc"])
        assert database.targets(dead) == []
        assert database.targets(Link("a", 0, "dd")) == ["d"]
        assert database.results() == {"re"}
        database.close()

    @pytest.mark.parametrize(
        "content", [b"not a database at all" * 500, b"SQLite format 3\0" + b"\xff" * 5000]
    )
    def test_a_broken_file_is_moved_aside(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "cache.db").write_bytes(content)
        warnings: list[str] = []
        database = self.open(tmp_path, warnings)
        database.add([(LINK, "k")])
        assert database.targets(LINK) == ["k"]
        assert len(warnings) == 1
        assert (tmp_path / "cache.db.broken").read_bytes() == content
        database.close()

    def test_a_file_that_is_used_wrongly_stays_where_it_is(self, tmp_path: Path) -> None:
        warnings: list[str] = []
        database = self.open(tmp_path, warnings)
        database.add([(LINK, "k")])
        errors: list[BaseException] = []

        def elsewhere() -> None:
            try:
                database.targets(LINK)
            except sqlite3.ProgrammingError as error:  # SQLite's connections are one thread's
                errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert errors
        assert database.targets(LINK) == ["k"]
        database.add([], [CacheRecord("r", cast("str", None), OLD)])  # which the table refuses
        assert len(warnings) == 1
        assert "goes on without it" in warnings[0]
        database.close()
        assert not (tmp_path / "cache.db.broken").exists()
        database = self.open(tmp_path)
        assert database.targets(LINK) == ["k"]
        database.close()

    def test_a_file_of_another_version_is_moved_aside(self, tmp_path: Path) -> None:
        with sqlite3.connect(tmp_path / "cache.db") as connection:
            connection.execute("CREATE TABLE future(x)")
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.close()
        warnings: list[str] = []
        database = self.open(tmp_path, warnings)
        database.add([(LINK, "k")])
        assert f"version {VERSION + 1}" in warnings[0]
        assert database.targets(LINK) == ["k"]
        database.close()

    def test_a_file_that_breaks_while_it_is_used_ends_nothing(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        links = [(Link(f"{n:0100}", 0, STEP), "k") for n in range(2000)]
        database.add(links)
        database.close()
        size = os.path.getsize(tmp_path / "cache.db")
        with (tmp_path / "cache.db").open("r+b") as file:
            file.seek(size // 3)
            file.write(b"\xa5" * (size // 2))
        warnings: list[str] = []
        database = self.open(tmp_path, warnings)
        for link, _ in links:
            database.targets(link)
        database.add([(LINK, "k")])
        assert len(warnings) == 1
        database.close()

    def test_a_folder_that_cannot_be_written_is_done_without(self, tmp_path: Path) -> None:
        warnings: list[str] = []
        database = Database(str(tmp_path / "no such folder" / "cache.db"), warn=warnings.append)
        database.add([(LINK, "k")])
        assert database.targets(LINK) == []
        assert len(warnings) == 1
        database.close()

    def test_processes_that_write_at_once_lose_nothing(self, tmp_path: Path) -> None:
        script = (
            "import sys\n"
            "from inlay.solver.database import Database\n"
            "from inlay.solver.keys import CacheRecord, Link\n"
            "d = Database(sys.argv[1], warn=lambda m: sys.exit(m))\n"
            "for n in range(150):\n"
            "    d.add([(Link(f'{sys.argv[2]}-{n}', 0, 's'), 'k')], [CacheRecord(f'r{n}', sys.argv[2], '')])\n"
            "d.close()\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "cache.db")]
        processes = [subprocess.Popen([*command, str(n)]) for n in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        database = self.open(tmp_path)
        assert len(database.links_to("k")) == 450
        assert all(len(database.records(str(n))) == 150 for n in range(3))
        database.close()

    def test_a_build_is_cached_in_the_next_process(self, tmp_path: Path) -> None:
        from fake_steps import Builder

        database = self.open(tmp_path)
        b = Builder(CacheIndex(database))
        edge = b.step("v1", "s1", "r1", b.step("v0", "s0", "r0"), slow=(0,))
        b.solve(edge)
        database.close()
        database = self.open(tmp_path)
        later = Builder(CacheIndex(database))
        later.store = b.store
        assert later.solve(later.step("v1", "s1", "r1", later.step("v0", "s0", "r0"), slow=(0,))) == "r1"
        assert later.runs == []
        database.close()

"""A file that is written anew, by us or by others, under the feet of those who share it."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.harness import NOW, counted, journal_of, opened, record, sums, total, with_one_exchange
from proxy import config
from proxy.ledger import journal, ledger, ledgerfile, report
from proxy.ledger.journal import Journal
from proxy.ledger.report import as_csv, as_json
from support import PATIENCE

pytestmark = pytest.mark.anyio


async def test_a_file_that_is_emptied_while_it_is_read_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    size, pread = file.stat().st_size, os.pread

    def emptied(opened: int, length: int, start: int) -> bytes:
        if length == size:
            os.truncate(file, 0)
        return pread(opened, length, start)

    monkeypatch.setattr(os, "pread", emptied)
    other = journal_of(file)
    assert total(await other.ledger()) == 0
    monkeypatch.undo()
    other.count(record())
    assert total(await other.ledger()) == 1
    await other.close()


async def test_a_file_that_has_grown_is_written_anew_under_the_others_feet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    file = tmp_path / "ledger"
    one, other = journal_of(file), journal_of(file)
    largest = 0
    for count in range(1, 101):
        for each in (one, other):
            each.count(record())
            await each.sync()
        largest = max(largest, file.stat().st_size)
        assert total(await one.ledger()) == 2 * count
    assert largest < 10_000 < 200 * len(b"".join(counted(record()).lines()))
    assert total(await other.ledger()) == 200
    await one.close()
    await other.close()
    assert await sums(file) == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["ledger"]  # noqa: PTH208


async def test_a_file_that_was_emptied_begins_anew_though_it_is_longer_at_once(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    file.write_bytes(b"")
    for number in range(9):
        one.count(record(key=f"{number}"))
    assert total(await one.ledger()) == 9
    await one.close()
    assert await sums(file) == 9


@contextmanager
def in_place_of(file: Path, kind: str) -> Iterator[None]:
    """Have something else bear the name of a file for a while."""
    away = file.with_name("away")
    file.rename(away)
    match kind:
        case "pipe":
            os.mkfifo(file)
        case "directory":
            file.mkdir()
        case "foreign":
            file.write_text("my own notes")
        case "loop":
            file.symlink_to(file)
        case _:
            file.symlink_to(kind)
    yield
    if kind == "directory":
        file.rmdir()
    else:
        file.unlink()
    away.rename(file)


@pytest.mark.parametrize(
    "kind", ["pipe", "directory", "foreign", "loop", "/dev/zero", "/dev/full", "/dev/null"]
)
async def test_what_is_no_ledger_takes_nothing_and_keeps_nobody_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    with in_place_of(file, kind):
        async with asyncio.timeout(PATIENCE):
            for count in range(2, 5):
                one.count(record(key=f"{count}"))
                assert total(await one.ledger()) == count
        if kind == "foreign":
            assert file.read_text() == "my own notes"
    assert caplog.text.count("cannot be written") == 1
    assert total(await one.ledger()) == 4
    await one.close()
    assert await sums(file) == 4


@pytest.mark.parametrize("kept_in", [None, "ledger"])
async def test_many_entries_leave_time_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_in: str | None
) -> None:
    monkeypatch.setattr(journal, "SLICE", 0.0)
    one = Journal(config.Ledger(kept_in and str(tmp_path / kept_in), 1_000), clock=lambda: NOW)
    for number in range(1_100):
        one.count(record(key=f"{number}"))
    syncing = asyncio.create_task(one.sync())
    turns = 0
    while not syncing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1_000 / ledger.STEP
    found = await one.ledger()
    assert total(found) == 1_100
    assert max(line.count(b'"first"') for line in found.lines()) <= ledger.STEP + 1  # the others
    for parts in (as_json(found, NOW), as_csv(found, NOW)):
        assert max(part.count(b"anthropic-python") for part in parts) <= report.PART
    await one.close()


@pytest.mark.parametrize("way", [Path.unlink, lambda file: os.truncate(file, 0)])
async def test_a_file_that_is_taken_away_or_emptied_begins_anew(
    tmp_path: Path, way: Callable[[Path], None]
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    for _ in range(3):
        one.count(record())
        await one.sync()
    way(file)
    one.count(record())
    assert total(await one.ledger()) == 1
    await one.close()
    assert await sums(file) == 1


async def test_a_ledger_that_begins_anew_is_another(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    seen = set()
    for count in range(1, 5):
        one.count(record())
        await one.ledger()
        seen.add(one.revision)
        file.unlink()
        await one.ledger()
        seen.add(one.revision)
        assert len(seen) == 2 * count
    await one.close()


async def test_a_file_that_cannot_be_replaced_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    file = tmp_path / "ledger"
    (tmp_path / "ledger.new").mkdir()
    one = journal_of(file)
    for count in range(1, 30):
        one.count(record())
        assert total(await one.ledger()) == count
    assert 0 < caplog.text.count("cannot be written anew") < 5
    await one.close()
    assert await sums(file) == 29


async def test_a_file_that_is_written_anew_stays_where_it_is_and_who_may_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    volume, names = tmp_path / "volume", tmp_path / "names"
    volume.mkdir()
    names.mkdir()
    file, link, another = volume / "ledger", names / "link", tmp_path / "another"
    file.touch(0o640)
    link.symlink_to(file)
    another.write_text("of somebody else")
    (volume / "ledger.new").symlink_to(another)
    one = journal_of(link)
    for _ in range(30):
        one.count(record())
        await one.sync()
    await one.close()
    assert link.readlink() == file
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_size < 10_000
    assert await sums(file) == 30
    assert another.read_text() == "of somebody else"
    assert [each.name for each in (*volume.iterdir(), *names.iterdir())] == ["ledger", "link"]


@pytest.mark.parametrize("why", [errno.EPERM, errno.EINVAL], ids=["no right", "no such user"])
async def test_a_file_that_is_written_anew_belongs_to_whom_it_did(
    why: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []

    def refused(_: int, uid: int, gid: int) -> None:
        given.append((uid, gid))
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    monkeypatch.setattr(os, "fchown", refused)
    file = tmp_path / "ledger"
    one = journal_of(file)
    for _ in range(30):
        one.count(record())
        await one.sync()
    await one.close()
    assert (-1, file.stat().st_gid) in given
    assert (file.stat().st_uid, -1) in given
    assert file.stat().st_size < 10_000
    assert await sums(file) == 30


def test_a_file_whose_mode_cannot_be_kept_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refuse)
    file = ledgerfile.File(tmp_path / "ledger")
    file.read_new()
    before = opened()
    with pytest.raises(PermissionError):
        file.compact([])
    assert opened() == before
    file.close()

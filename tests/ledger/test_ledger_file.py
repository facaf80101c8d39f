"""The file of the ledger: all who share it sum up alike, whatever else stands in it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ledger.harness import (
    counted,
    journal_of,
    passed,
    record,
    shown_as_json,
    sums,
    total,
    with_one_exchange,
)
from proxy import config
from proxy.ledger import journal, ledgerfile
from proxy.ledger.journal import Journal
from proxy.ledger.ledger import Ledger
from support import until

pytestmark = pytest.mark.anyio


async def test_all_who_share_a_file_sum_up_alike(tmp_path: Path) -> None:
    one, other = (Journal(config.Ledger(), tmp_path) for _ in range(2))
    for count in range(1, 5):
        for each in (one, other):
            each.count(record())
            each.count(passed())
        assert total(await one.ledger()) == 4 * count - 2  # the other has not written yet
        assert total(await other.ledger()) == 4 * count
        assert shown_as_json(await one.ledger()) == shown_as_json(await other.ledger())
    await one.close()
    await other.close()
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o600


async def test_it_is_written_by_itself_soon_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FLUSH", 0.01)
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await until(lambda: file.exists() and file.read_bytes().endswith(b"\n"))
    one.count(record())
    await until(lambda: file.read_bytes().count(b"\n") == 2)
    assert await sums(file) == 2
    await one.close()


@pytest.mark.parametrize(("cut", "whole"), [(1, 2), (2, 1), (40, 1)])
async def test_a_torn_line_is_passed_over_and_what_follows_is_not(
    tmp_path: Path, cut: int, whole: int
) -> None:
    file = tmp_path / "ledger"
    for _ in range(2):
        one = journal_of(file)
        one.count(record())
        await one.close()
    file.write_bytes(file.read_bytes()[:-cut])
    assert await sums(file) == whole
    after = journal_of(file)
    after.count(record())
    await after.close()
    assert await sums(file) == whole + 1


async def test_a_line_of_something_else_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    with file.open("ab") as opened:
        opened.write(b'\x00\xff\n\n{"ledger":1}\n[1]\n')
    assert await sums(file) == 1
    assert "1 lines" in caplog.text


def test_what_others_have_appended_is_not_lost(tmp_path: Path) -> None:
    (line,) = Ledger(100).lines()
    mine, others = (ledgerfile.File(tmp_path / "ledger") for _ in range(2))
    try:
        mine.append([line])
        assert mine.read_new() == (True, [line[:-1]])
        others.append([line])
        mine.compact([line])
        assert mine.path.read_bytes() == line * 2
        mine.path.write_bytes(line * 2 + line[:-9])  # as a crash leaves it
        mine.append([line])
        assert others.read_new()[1][-1] == line[:-1]
    finally:
        mine.close()
        others.close()


async def test_what_was_read_before_reading_failed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    monkeypatch.setattr(ledgerfile, "PART", 100)
    pread = os.pread
    read: list[int] = []

    def failing(opened: int, length: int, start: int) -> bytes:
        if length == ledgerfile.PART:
            read.append(start)
            if len(read) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(opened, length, start)

    monkeypatch.setattr(os, "pread", failing)
    other = journal_of(file)
    assert total(await other.ledger()) == 0
    assert total(await other.ledger()) == 1
    await other.close()


async def test_a_file_with_lines_of_a_later_form_loses_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "COMPACT_FROM", 2_000)
    file = tmp_path / "ledger"
    later = b'{"ledger":2,"entries":"in another way"}\n' * 100
    file.write_bytes(later)
    one = journal_of(file)
    one.count(record())
    assert total(await one.ledger()) == 1
    assert file.read_bytes().startswith(later)
    assert "100 lines of" in caplog.text
    file.unlink()
    file.write_bytes(b"".join(counted(record()).lines()) * 100)
    assert total(await one.ledger()) == 100
    assert file.stat().st_size < 2_000
    await one.close()


async def test_a_lock_that_another_keeps_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledgerfile, "LOCK_PATIENCE", 0.01)
    file = tmp_path / "ledger"
    holder = ledgerfile.File(file)
    one = journal_of(file)
    one.count(record())
    with holder.locked():
        assert total(await one.ledger()) == 1
    assert "it is locked by another" in caplog.text
    assert total(await one.ledger()) == 1
    holder.close()
    await one.close()
    assert await sums(file) == 1

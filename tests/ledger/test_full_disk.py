"""A disk that is full: what could not be written is kept, and tried again."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ledger.harness import journal_of, record, sums, total, with_one_exchange
from proxy.ledger import journal
from support import until

pytestmark = pytest.mark.anyio


async def test_a_disk_that_is_full_is_logged_once_and_nothing_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ledger"
    file.symlink_to("/dev/full")
    one = journal_of(file)
    for count in range(1, 4):
        one.count(record())
        assert total(await one.ledger()) == count
    assert caplog.text.count("cannot be written") == 1
    assert await one.ledger() is await one.ledger()  # or each who asks, and reads slowly, kept one
    file.unlink()
    assert total(await one.ledger()) == 3
    await one.close()
    assert await sums(file) == 3


async def test_what_could_not_be_written_is_tried_again_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal, "FLUSH", 0.01)
    monkeypatch.setattr(journal, "RETRY", 0.01)
    file = tmp_path / "ledger"
    file.symlink_to("/dev/full")
    one = journal_of(file)
    one.count(record())
    await until(lambda: "cannot be written" in caplog.text)
    file.unlink()
    await until(lambda: file.exists() and file.read_bytes().endswith(b"\n"))
    assert await sums(file) == 1
    await one.close()


async def test_what_cannot_be_written_to_the_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    file.unlink()
    file.symlink_to("/dev/full")
    for _ in range(2):
        one.count(record())
        await one.sync()
    await one.close()
    assert "ledger: 2 exchanges could not be written, and are lost" in caplog.text


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Let no file grow beyond ``size``, as on a full disk: the last write is a part."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


async def test_a_full_disk_hides_nothing_that_others_have_written(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    one, other = journal_of(file), journal_of(file)
    assert total(await one.ledger()) == 0
    other.count(record())
    await other.sync()
    one.count(record())
    with full_at(file.stat().st_size):
        assert total(await one.ledger()) == 2
        one.count(record())
        assert total(await one.ledger()) == 3
    for each in (one, other):
        assert total(await each.ledger()) == 3
        await each.close()


async def test_a_line_for_which_there_is_no_room_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    one = journal_of(file)
    one.count(record())
    await one.sync()
    written = file.read_bytes()
    with full_at(len(written) + 9):
        one.count(record())
        assert total(await one.ledger()) == 2
        assert file.read_bytes() == written
    await one.close()
    assert await sums(file) == 2


async def test_a_torn_line_on_a_full_disk_hides_nothing(tmp_path: Path) -> None:
    file = await with_one_exchange(tmp_path / "ledger")
    with file.open("ab") as opened:
        opened.write(b'{"ledger":1,"ent')
    with full_at(file.stat().st_size):
        assert await sums(file) == 1
    assert await sums(file) == 1

"""The ledger of a process, however that begins and ends."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
from pathlib import Path

import pytest

from ledger.harness import ask, proxy, seen, sums
from proxy import config
from proxy.cli.cli import main
from proxy.ledger import journal, ledgerfile
from support import PATIENCE, answer_all, raw_upstream, until
from support.processes import served, write_config

pytestmark = pytest.mark.anyio


def test_a_file_that_cannot_be_written_ends_the_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "notes.txt"
    foreign.write_text("my own notes")
    cases = {
        tmp_path: "cannot be written: Is a directory",
        tmp_path / "missing" / "ledger": "cannot be written: No such file or directory",
        Path("/dev/null"): "cannot be written: it is no regular file",
        foreign: "cannot be written: it is no ledger: name another file, or a new one",
    }
    for path, why in cases.items():
        with pytest.raises(OSError, match=re.escape(f"ledger.file {path} {why}")):
            journal.check(config.Ledger(str(path)))
    file = tmp_path / "proxy.yaml"
    write_config(file, "http://127.0.0.1:9", ledger={"file": str(tmp_path)})
    assert main(["serve", "--config", str(file)]) == 1
    message = f"anthropic-version-proxy: ledger.file {tmp_path} cannot be written: Is a directory\n"
    assert capfd.readouterr().err == message
    assert foreign.read_text() == "my own notes"


def test_who_may_not_write_the_file_is_told_as_whom_it_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:  # the suite may run as root, who is refused nothing
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(ledgerfile.File, "locked", refused)
    message = (
        f"{tmp_path} cannot be written: Permission denied: uid {os.geteuid()} must be allowed to"
    )
    with pytest.raises(OSError, match=re.escape(message)):
        journal.check(config.Ledger(str(tmp_path / "ledger")))


async def test_the_kill_of_a_process_costs_a_second_at_most(tmp_path: Path) -> None:
    file, kept_in = tmp_path / "proxy.yaml", tmp_path / "ledger.jsonl"
    async with raw_upstream(answer_all) as upstream:
        write_config(file, upstream, ledger={"file": str(kept_in)})
        async with served("serve", "--config", str(file)) as proxy:
            await ask(proxy.url, 2)
            await until(lambda: kept_in.stat().st_size > 0)
            proxy.signal(signal.SIGKILL)
            await proxy.ended()
    assert await sums(kept_in) == 2


async def test_an_orderly_end_costs_nothing(tmp_path: Path) -> None:
    kept_in = tmp_path / "ledger.jsonl"
    for before in (0, 1):
        async with proxy(ledger={"file": str(kept_in)}) as (_, url):
            assert await seen(url) == before
            await ask(url, 1)
    assert await sums(kept_in) == 2


async def test_workers_add_up_whichever_answers(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    async with raw_upstream(answer_all) as upstream:
        write_config(file, upstream)
        async with served("serve", "--config", str(file), "--workers", "2") as proxy:
            await ask(proxy.url, 20)
            async with asyncio.timeout(PATIENCE):
                while await seen(proxy.url) < 20:  # noqa: ASYNC110  (another process writes)
                    await asyncio.sleep(0.05)
            assert [await seen(proxy.url) for _ in range(10)] == [20] * 10
            assert await proxy.stopped() == 0

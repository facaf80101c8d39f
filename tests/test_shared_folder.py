"""The folder that workers share, at the end of their supervisor."""

from __future__ import annotations

import resource
import shutil
from contextlib import ExitStack

from proxy.server.supervisor import _shared


def test_a_shared_folder_that_cannot_be_removed_does_not_make_a_stop_fail() -> None:
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as until_it_is_removed, _shared(["0"]) as shared:
        assert shared is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, most))
        until_it_is_removed.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (usual, most))
    assert shared.exists()
    shutil.rmtree(shared)

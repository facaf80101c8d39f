"""The folder that workers share, at the end of their supervisor."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack

from proxy.server.supervisor import _shared
from support.processes import no_more_descriptors


def test_a_shared_folder_that_cannot_be_removed_does_not_make_a_stop_fail() -> None:
    with ExitStack() as until_it_is_removed, _shared(["0"]) as shared:
        assert shared is not None
        until_it_is_removed.enter_context(no_more_descriptors(os.getpid(), but=-1))
    assert shared.exists()
    shutil.rmtree(shared)

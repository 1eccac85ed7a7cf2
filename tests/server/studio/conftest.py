"""The studio's routes are tested on a server without ComfyUI's own origin check."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def server(open_server: Any) -> Any:
    return open_server

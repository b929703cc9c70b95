"""Fixtures shared by the suite: the model that ships, and a runner of the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The reference runs the suite, which makes many models and compiles none; test_runtime.py holds the compiled encoder to it.
os.environ.setdefault("MODERATION_RUNTIME", "torch")

pytest.register_assert_rewrite("panels", "desks")  # which tests import before pytest does

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "data" / "samples"


@pytest.fixture(scope="session")
def moderator():
    """The default model; loading takes seconds, so the session shares one."""
    from moderation import Moderator

    return Moderator.from_pretrained()


@pytest.fixture
def command(tmp_path):
    """Run `moderation …` in a process of its own, in an empty folder; returns the completed process."""

    def run(*arguments: object, stdin: bytes | None = None, timeout: float = 300) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "moderation.cli", *map(str, arguments)],
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env=os.environ | {"COLUMNS": "140", "PYTHONPATH": str(ROOT)},
        )

    return run


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by Playwright; root may not use its sandbox."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()

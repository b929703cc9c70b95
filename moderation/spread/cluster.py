"""Ray, connected to or started, and its errors as one line."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from moderation.schema import UserError
from moderation.score import OutputError

from .storage import line


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at an address, or to one of this machine alone; what was started is stopped.

    Raises:
        UserError: Ray is not installed, does not start, or does not answer at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # else what runs here would wait for whatever else runs here
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised; its lines would stand among ours
    if not address and "RAY_AUTH_MODE" not in os.environ:  # and nobody else on the network may use what is started here
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError("the ray engine is not installed; run: pip install 'moderation[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        # Only descriptions of blocks and, for a while, what is sorted lie in the store of objects; more spills to the disk.
        local = {"include_dashboard": False, "object_store_memory": 1 << 30, "_node_ip_address": "127.0.0.1"}
        try:
            host, _, port = (address or "").removeprefix("ray://").rpartition(":")
            if host and port.isdecimal():  # Ray itself would try for many minutes
                socket.create_connection((host, int(port)), timeout=20).close()
            ray.init(address or "local", log_to_driver=False, logging_level="CRITICAL", **({} if address else local))
        except Exception as error:  # Ray raises a bare one where a machine is too busy to start it within 30 seconds
            if address:
                why = f"--ray-address {address}: no Ray cluster ({line(error)}); expected HOST:PORT or auto"
            else:
                why = f"Ray cannot be started here ({line(error)}); run the same command again, or without --engine ray"
            raise UserError(why) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # its log goes on in a file
            handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Raise what goes wrong in the cluster as an `OutputError`."""
    import ray

    try:
        yield
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise OutputError(f"{what} ({line(error)}); what is done is kept, run the same command again to go on") from error

"""The peer of the limiter benchmarks: pyrate-limiter's SQLite bucket with its lock file, used as it documents.

Belongs here: the peer's processes alone. It books a request when it is sent, keeps no answers, and waits 50 ms longer
than it computes; it is the one published limiter with several windows that processes share without a server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
from pyrate_limiter import Limiter, Rate, SQLiteBucket

from expirytrack_dagster_tests.bench.load import TOKEN, candle_path, in_parallel, limits_of

if TYPE_CHECKING:
    from pathlib import Path

    from expirytrack_dagster_tests.bench.load import Share

_TOO_MANY = 429


def open_bucket(home: Path, limits: str) -> SQLiteBucket:
    """Return the bucket that all processes of this home share."""
    rates = [Rate(limit.requests, round(limit.seconds * 1000)) for limit in limits_of(limits)]
    return SQLiteBucket.init_from_file(rates, db_path=str(home / "peer.sqlite"), use_file_lock=True)


def ask_share(share: Share) -> None:
    """Ask a share through the peer, as many at once as our client does; the target of a process.

    What the sandbox refuses for coming too fast is not asked again: the peer's longest window would be full by then.
    """
    asyncio.run(_ask_share(share))


async def _ask_share(share: Share) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with Limiter(open_bucket(share.home, share.limits)) as limiter:
        async with httpx.AsyncClient(base_url=share.url, headers=headers, trust_env=False, timeout=30) as http:

            async def ask(number: int) -> None:
                await limiter.try_acquire_async("upstox")
                response = await http.get(candle_path(share.key, number))
                if response.status_code != _TOO_MANY:
                    response.raise_for_status()

            await in_parallel(range(share.first, share.first + share.count), ask, share.settings.workers)

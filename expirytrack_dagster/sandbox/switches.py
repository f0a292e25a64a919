"""How the sandbox behaves and misbehaves: one typed structure, settable at the start and at run time.

Belongs here: the switches and the counting that decides which request a fault hits. What a fault does to an answer is
in `server.py`. The list follows docs/upstox-api.md.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from expirytrack_dagster.errors import ConfigurationError
from expirytrack_dagster.sandbox.planting import Plant  # noqa: TC001 - msgspec reads the annotation at run time
from expirytrack_dagster.settings import NOTIFIER_URL

Endpoint = Literal["expiries", "option_contracts", "future_contracts", "candles", "profile"]
Kind = Literal[
    400,  # UDAPI100011, although the key is good
    401,  # UDAPI100050, as if the token had died
    403,  # UDAPI100067
    423,
    429,  # UDAPI10005 without a full window
    500,
    503,
    "cloudflare_1010",  # HTML with 403, before the API sees the request
    "cloudflare_1015",  # HTML with 429, before the API sees the request
    "html",  # an HTML page with status 200
    "truncate",  # JSON that ends in the middle
    "wrong_shape",  # JSON of another shape
    "empty",  # no candles, or nothing listed
    "reset",  # the connection is reset instead of an answer
]
KINDS = get_args(Kind)
EDGE = ("cloudflare_1010", "cloudflare_1015")
Seconds = tuple[float, float]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Spoil the answers to some requests.

    Args:
        kind: what happens; a number is an HTTP status with Upstox's error body.
        every: hit every n-th of the requests that match; all of them by default.
        tokens: match only these instruments, by full key or by exchange token; any by default.
        endpoints: match only these endpoints; any by default.
        times: stop after so many hits.

    Raises:
        ConfigurationError: there is no such kind, or a count is below one.
    """

    kind: Kind
    every: int | None = None
    tokens: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    times: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could never hit, since msgspec checks types only when it decodes."""
        if self.kind not in KINDS:
            raise ConfigurationError(f"There is no fault {self.kind!r}; there are {', '.join(map(str, KINDS))}.")
        if min(self.every or 1, self.times or 1) < 1 or self.every == 0:
            raise ConfigurationError("A fault hits every n-th request, n times: both numbers must be above zero.")

    def matches(self, endpoint: str, target: str) -> bool:
        """Say whether a request for an instrument key (underlying or expired contract) is one to count."""
        if self.endpoints and endpoint not in self.endpoints:
            return False
        parts = target.split("|")
        return not self.tokens or target in self.tokens or (len(parts) > 1 and parts[1] in self.tokens)


class App(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The one app that may log in, and the user who does.

    Args:
        client_id: its API key.
        client_secret: its API secret.
        redirect_uri: its redirect address; any address of this machine by default.
        notifier_url: where tokens are delivered that the user approved.
        user_id: who logs in.
    """

    client_id: str = "sandbox-app"
    client_secret: str = "sandbox-secret"  # noqa: S105 -- opens nothing
    redirect_uri: str | None = None
    notifier_url: str = NOTIFIER_URL
    user_id: str = "SB0001"


class Switches(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that can be switched; the defaults are a well-behaved Upstox with a Plus account.

    Args:
        plus: the account has the Plus plan; else 401 UDAPI1149.
        depth: list every expiry since the floor, or those of the last six months.
        range_cap: refuse wider candle windows with 400 UDAPI1148; in days from the first to the last, both counted.
        newest_days: answer only the newest days of a window of minutes, without saying so.
        shuffled: candles in no order.
        duplicated: every tenth candle twice.
        zero_volume: a flat bar of volume zero for every minute that did not trade between two that did.
        retry_after: send Retry-After with a 429.
        count_refused: refused requests use up the windows too.
        limit_scope: one set of windows for the account, or one for each endpoint.
        token_life: a token is dead after so many requests.
        app: who may log in, see `App`.
        ahead: seconds by which the clock is ahead that codes and tokens live by.
        delay_before: seconds from the arrival of a request until it counts, between two bounds.
        delay_after: seconds from then until the answer, between two bounds.
        faults: see `Fault`; the first that hits wins.
        planted: see `planting.Plant`.
    """

    plus: bool = True
    depth: Literal["floor", "six_months"] = "floor"
    range_cap: int | None = None
    newest_days: int | None = None
    shuffled: bool = False
    duplicated: bool = False
    zero_volume: bool = False
    retry_after: bool = False
    count_refused: bool = False
    limit_scope: Literal["account", "endpoint"] = "account"
    token_life: int | None = None
    app: App = App()
    ahead: float = 0.0
    delay_before: Seconds = (0.0, 0.0)
    delay_after: Seconds = (0.0, 0.0)
    faults: tuple[Fault, ...] = ()
    planted: tuple[Plant, ...] = ()


def changed(switches: Switches, document: bytes | str) -> Switches:
    """Return the switches with those named in a JSON object set anew; the others stay.

    Raises:
        ConfigurationError: it is no JSON object, or names something that does not exist or has another type.
    """
    try:
        named = msgspec.json.decode(document, type=dict[str, object])
        return msgspec.convert({**msgspec.to_builtins(switches), **named}, Switches)
    except msgspec.MsgspecError as error:
        raise ConfigurationError(f"These switches cannot be set: {error}.") from None


class FaultCounter:
    """Counts the requests that each fault matches, and picks the fault that hits."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        """Start counting at zero."""
        self._faults = faults
        self._matched = [0] * len(faults)
        self._hits = [0] * len(faults)

    def pick(self, endpoint: str, target: str, *, edge: bool) -> Kind | None:
        """Count a request and return the kind of the first fault that hits it.

        Args:
            endpoint: which of the API's endpoints is asked.
            target: the instrument key of the request, empty where there is none.
            edge: look at the faults of the content network alone; else at all others.
        """
        picked: Kind | None = None
        for number, fault in enumerate(self._faults):
            if (fault.kind in EDGE) != edge or not fault.matches(endpoint, target):
                continue
            self._matched[number] += 1
            due = self._matched[number] % (fault.every or 1) == 0
            if picked is None and due and (fault.times is None or self._hits[number] < fault.times):
                self._hits[number] += 1
                picked = fault.kind
        return picked

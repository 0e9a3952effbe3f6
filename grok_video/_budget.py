"""What creates cost by the list, and whether one more fits under a ceiling.

Plain arithmetic over what was told; nothing here sends or waits. A video costs at most what the
list says, so each create counts with its list price until the provider has named its own.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from attrs import define

from grok_video._arguments import refuse
from grok_video._public import publish
from grok_video._requests import VideoRequest

__all__ = ["Account", "Budget", "dollars", "list_price"]

#: US dollars for a second of video by resolution, and for the source picture (contract.md,
#: section 5: the provider's list; CometAPI's own was not found).
_PRICES: Final = {
    "grok-imagine-video": ({"480p": "0.05", "720p": "0.07"}, "0.002"),
    "grok-imagine-video-1.5": ({"480p": "0.08", "720p": "0.14", "1080p": "0.25"}, "0.01"),
    "grok-imagine-video-1.5-lite": ({"480p": "0.02", "720p": "0.03", "1080p": "0.14"}, "0"),
}
_DEAREST: Final = _PRICES["grok-imagine-video-1.5"]
#: The server's defaults as the create page has them; other pages name a cheaper resolution, and a
#: ceiling has to hold in any case.
_DEFAULT_RESOLUTION: Final = "720p"
_DEFAULT_DURATION: Final = 8


def dollars(amount: Decimal) -> str:
    """Return an amount for a sentence: with two decimals, or as many as it has."""
    exact = f"{amount.normalize():f}"
    return f"{max(exact, f'{amount:.2f}', key=len)} USD"


def list_price(request: VideoRequest) -> Decimal:
    """Return what a create costs at most by the provider's list, in US dollars.

    What the request leaves to the server counts as its defaults of 720p and 8 seconds, and a model
    or resolution that is not on the list as the dearest. CometAPI states no price of its own for
    this route, and may charge another one; what was charged is `Video.cost_usd`. Raises
    `InvalidRequest` if it is given anything but a `VideoRequest`.
    """
    if not isinstance(request, VideoRequest):
        raise refuse("request", request, "must be a VideoRequest")
    seconds, picture = _PRICES.get(request.model, _DEAREST)
    resolution = request.resolution or _DEFAULT_RESOLUTION
    rate = seconds.get(resolution) or _DEAREST[0][resolution]
    length = request.duration if request.duration is not None else _DEFAULT_DURATION
    return Decimal(rate) * length + (Decimal(picture) if request.image is not None else 0)


@define
class Budget:
    """The money of a batch, in US dollars."""

    #: No create may lead beyond it; None for none.
    ceiling: Decimal | None
    #: What the provider has named.
    spent: Decimal = Decimal(0)
    #: List prices of what may be billed without anybody naming its price, and of what is about to
    #: be sent.
    open: Decimal = Decimal(0)
    #: Items of this process whose amounts may still become smaller.
    moving: int = 0

    @property
    def may_still_fit(self) -> bool:
        """True as long as something on its way may turn out cheaper than its list price."""
        return self.moving > 0

    def fits(self, price: Decimal) -> bool:
        """Return whether one more create of this price stays under the ceiling."""
        return self.ceiling is None or self.spent + self.open + price <= self.ceiling


@define(eq=False)
class Account:
    """What one item has to do with the money of its batch, as it was last told."""

    _budget: Budget
    #: What the budget knows of it from earlier runs.
    _spent: Decimal
    _open: Decimal
    _held: Decimal = Decimal(0)
    _is_moving: bool = False

    def begin(self) -> None:
        """From now on until `close` its amounts may become smaller."""
        if not self._is_moving:
            self._is_moving = True
            self._budget.moving += 1

    def hold(self, price: Decimal) -> None:
        """Count a create that is about to be sent, instead of what was held before."""
        self._budget.open += price - self._held
        self._held = price

    def tell(self, spent: Decimal, open_usd: Decimal) -> None:
        """These are the item's amounts now, over all its creates that were sent."""
        self._budget.spent += spent - self._spent
        self._budget.open += open_usd - self._open
        self._spent, self._open = spent, open_usd

    def close(self) -> None:
        """Nothing more is sent for it, and its amounts stay as they are."""
        self.hold(Decimal(0))
        if self._is_moving:
            self._is_moving = False
            self._budget.moving -= 1


publish(globals(), ("list_price",))

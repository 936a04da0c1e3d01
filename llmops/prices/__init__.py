"""What a request costs: a kept price library, offline, with the site's own prices over it.

Cloud prices come from the package ``genai-prices``; ``configs/prices.yaml`` overrides or adds models, by token or by the
hour of a machine. Everything is ``Decimal``. A price that nobody knows is unknown, with the reason, and never zero.
"""

from llmops.prices.book import Override, PriceBook, local_price, price, price_book
from llmops.prices.money import BILLED_TIERS, Charge, ChargePart, LocalRate, PriceSheet, Rate, Usage

__all__ = [
    "BILLED_TIERS",
    "Charge",
    "ChargePart",
    "LocalRate",
    "Override",
    "PriceBook",
    "PriceSheet",
    "Rate",
    "Usage",
    "local_price",
    "price",
    "price_book",
]

"""The ``money:`` part of ``gateway.yaml``."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llmops.settings import settings

Dimension = Literal["tenant", "team", "key", "model"]
Period = Literal["day", "month", "total"]


def _through_text(value: object) -> object:
    """YAML reads 0.1 as a binary float; its shortest text is the decimal that was written."""
    return repr(value) if isinstance(value, float) else value


Usd = Annotated[Decimal, BeforeValidator(_through_text), Field(gt=0, le=1_000_000_000, allow_inf_nan=False)]


class Form(BaseModel):
    """Unknown keys are errors; nothing changes after reading."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(Form):
    """Shell patterns; an absent one matches everything."""

    tenant: str = "*"
    team: str = "*"
    key: str = "*"
    model: str = "*"


class BudgetConfig(Form):
    """A limit on what may be spent in a period.

    ``each`` names what has a counter of its own: ``[key]`` gives every key the limit, ``[]`` shares it among all that
    match. ``hard`` refuses what would not fit; otherwise the budget only notifies.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    usd: Usd
    period: Period = "month"
    time_zone: str = "UTC"
    each: tuple[Dimension, ...] = ()
    match: Match = Match()
    hard: bool = True
    notify_at: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (80, 100)
    webhook: str | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        try:
            ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {self.time_zone!r}; for example Asia/Tokyo") from error
        if len(self.notify_at) > 8:
            raise ValueError("at most eight notifications")
        return self


class MoneyConfig(Form):
    """Where the books are kept and what may be spent.

    ``unknown_price`` says what happens to a request under a hard budget whose model has no known price.
    ``webhook_secret_env`` names the variable with the secret that signs notifications.
    """

    directory: Path = Field(default_factory=lambda: settings().state_dir / "gateway" / "books")
    budgets: tuple[BudgetConfig, ...] = ()
    postgres: str | None = None
    unknown_price: Literal["refuse", "allow"] = "refuse"
    flush_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    keep_days: Annotated[int, Field(ge=1, le=3650)] = 30
    keep_rows: Annotated[int, Field(ge=1000)] = 1_000_000
    spool_mib: Annotated[float, Field(gt=0, le=1024)] = 8.0
    max_spool_mib: Annotated[float, Field(gt=0)] = 1024.0
    webhook: str | None = None
    webhook_secret_env: str | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [budget.name for budget in self.budgets]
        if len(set(names)) < len(names):
            raise ValueError("two budgets have the same name")
        return self

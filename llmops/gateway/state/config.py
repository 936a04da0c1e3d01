"""The ``replicas:`` part of ``gateway.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Shared = Literal["budgets", "limits", "cache", "breakers"]


class ReplicasConfig(BaseModel):
    """Several gateways of one site that share state in a Redis server; ``redis_env`` names the variable with its URL.

    While Redis is away each of ``count`` replicas may use that part of every limit by itself. ``on_loss`` says what
    holds for hard budgets then: ``local`` (the same rule), or ``refuse``. A dead replica's reservations count as spent
    after ``lease_s``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis: str | None = None
    redis_env: str | None = None
    count: Annotated[int, Field(ge=1, le=1000)] = 2
    on_loss: Literal["local", "refuse"] = "local"
    share: tuple[Shared, ...] = ("budgets", "limits", "cache", "breakers")
    lease_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.redis is None) == (self.redis_env is None):
            raise ValueError("give one of redis and redis_env")
        return self

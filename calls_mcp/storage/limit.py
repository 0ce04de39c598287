"""A limit on an amount, and the result of exceeding it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` of something for `key`, such as a principal or an account.

    For `Storage.hit`, this is the amount in any period of `seconds`. For `Storage.reserve`, it is
    the amount at a time, and a reservation that is not released counts for `seconds`. `name` is
    for messages, and distinguishes limits with the same key.
    """

    name: str
    amount: int
    seconds: int
    key: str

    @property
    def counter(self) -> str:
        """The key under which a store counts it."""
        return f"{self.name}/{self.key}"


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Nothing was counted, because the limit `name` is reached for `retry_after` seconds."""

    name: str
    retry_after: float

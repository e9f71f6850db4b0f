"""How the values of the domain are made: records, commands, instants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def frozen(kind: type[T]) -> type[T]:
    """A dataclass of named fields that the type checker lets nobody change.

    One that stays as it is at run time too would take three times as long to make, and a transaction makes many.
    """
    return dataclass(kw_only=True, unsafe_hash=True)(kind)

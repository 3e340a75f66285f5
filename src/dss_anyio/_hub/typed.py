"""The types that a hub is given, as in ``open_hub[int, int | Request[int]]()``.

The first one is that of its items, the second one that of what is received in their place: an item,
and a request if somebody may ask. Without the second one, it is the first (PEP 696). At run time
type variables have such defaults since CPython 3.13 only, so ``Typed`` does it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T_Item = TypeVar("T_Item", default=Any)
    T_Received = TypeVar("T_Received", default=T_Item)
else:
    from typing import TypeVar

    T_Item = TypeVar("T_Item")
    T_Received = TypeVar("T_Received")


class Typed:
    """The base of what has two types."""

    if not TYPE_CHECKING:  # checkers know it by the default of ``T_Received``

        def __class_getitem__(cls, types: Any) -> Any:
            if not isinstance(types, tuple) and len(cls.__parameters__) == 2:
                types = (types, types)
            return super().__class_getitem__(types)

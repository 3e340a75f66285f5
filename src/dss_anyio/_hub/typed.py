"""The two types of a hub, as in ``open_hub[int, int | Request[int]]()``.

The first is the type of its items. The second is the type of a received object: an item, or a
request if a thread may ask. The second type defaults to the first (PEP 696). At run time, type
variables have defaults only since CPython 3.13, so ``Typed`` fills in the second type.
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
    """The base of the classes that take these two types."""

    if not TYPE_CHECKING:  # checkers know it by the default of ``T_Received``

        def __class_getitem__(cls, types: Any) -> Any:
            if not isinstance(types, tuple) and len(cls.__parameters__) == 2:
                types = (types, types)
            return super().__class_getitem__(types)

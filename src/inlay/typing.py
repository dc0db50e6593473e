"""What `typing` offers to run time, without importing it: that takes 7 ms, as much as the interpreter itself.

To type checkers these are `typing`'s. At run time `Generic` and `Protocol` are empty classes, and a `NamedTuple` is
made in a tenth of the time (95 µs a class are 8 ms of a build in which all is cached): as written, without a look at
what its annotations say, and without compiling code of its own.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Generic as Generic
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import TypeVar as TypeVar
    from typing import cast as cast
else:
    from _collections import _tuplegetter
    from types import FunctionType

    class Generic:
        """`Generic[T]`, which is known to type checkers alone."""

        __slots__ = ()

        def __class_getitem__(cls, parameters):
            return cls

    class Protocol(Generic):
        """`Protocol` and `Protocol[T]`."""

        __slots__ = ()

    def TypeVar(name, *constraints, **bounds):  # noqa: N802 - `typing`'s name
        return None

    def cast(kind, value):
        return value

    class _Definition(type):
        """Gives a class the fields that its annotations name; what they are set to are defaults.

        They have to be texts, `from __future__ import annotations`: in Python 3.14 others are not in the body.
        """

        @classmethod
        def __prepare__(cls, name, bases, **_):
            return {"__slots__": ()}

        def __new__(cls, name, bases, body):
            annotations = body.get("__annotations__")
            if annotations is None:
                return super().__new__(cls, name, bases, body)
            fields = tuple(annotations)
            defaults = tuple([body[field] for field in fields if field in body])
            for place, field in enumerate(fields):
                body[field] = _getter(place)
            body["_fields"] = body["__match_args__"] = fields
            body["__new__"] = _constructor(name, fields, defaults)
            return super().__new__(cls, name, bases, body)

    class NamedTuple(tuple, metaclass=_Definition):
        """A tuple whose fields have names."""

        def _replace(self, /, **changes):
            replaced = tuple.__new__(self.__class__, map(changes.pop, self._fields, self))
            if changes:
                raise TypeError(f"{self.__class__.__name__} has no field {', '.join(changes)}")
            return replaced

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            fields = ", ".join([f"{name}={value!r}" for name, value in self._asdict().items()])
            return f"{self.__class__.__name__}({fields})"

        def __getnewargs__(self):
            return tuple(self)

    _getters = []
    _constructors = {}

    def _getter(place):
        """The descriptor of a field: one for all classes, as it only knows its place."""
        while place >= len(_getters):
            _getters.append(_tuplegetter(len(_getters), f"Field number {len(_getters)}"))
        return _getters[place]

    def _constructor(name, fields, defaults):
        """`__new__` of a class: the code of all classes of as many fields, with other names of parameters."""
        code = _constructors.get(len(fields))
        if code is None:
            names = "".join([f"_{place}, " for place in range(len(fields))])
            made = eval(f"lambda _class, {names}: _new(_class, ({names}))")
            code = _constructors[len(fields)] = made.__code__
        named = code.replace(co_varnames=("_class", *fields), co_name="__new__", co_qualname=name)
        return FunctionType(named, _NAMESPACE, "__new__", defaults)

    _NAMESPACE = {"_new": tuple.__new__, "__builtins__": {}}

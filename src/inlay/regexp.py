"""Regular expressions that are compiled when they are first needed: `re` itself takes 4 ms to import.

What every build looks at (digests, image names, words of a Dockerfile) is read without them.
"""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import re


class _Regexp:
    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> object:
        import re

        compiled = re.compile(self._text)
        for method in ("match", "fullmatch", "search", "sub", "finditer", "findall"):
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def regexp(text: str) -> re.Pattern[str]:
    """The expression `text`."""
    return cast("re.Pattern[str]", _Regexp(text))

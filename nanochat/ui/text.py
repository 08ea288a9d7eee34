"""How text reaches the screen: text from a disk made harmless and visible."""

import re
import unicodedata

# Unicode categories whose characters change how their neighbours look and show nothing themselves: control, format
# (bidirectional overrides, zero-width), lone surrogates (bytes of a file name that are not UTF-8), private, unassigned.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")  # all of ASCII: Markdown lets any of them be escaped


def visible(text: str) -> str:
    r"""Write every character that hides, reorders or breaks text as its code, and leave all others alone.

    >>> visible("d4\u202e\x1b[31m")
    'd4\\u202e\\x1b[31m'

    The result is plain text, safe for `st.text`, `st.code` and table cells; for all that reads Markdown see `plain`.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _INVISIBLE
        else character
        for character in text
    )


def plain(text: str) -> str:
    r"""The same for boxes, captions, labels and tooltips, which read Markdown: nothing in it is a link, an image, ....

    >>> plain("![x](http://a.b)")
    '\\!\\[x\\]\\(http\\:\\/\\/a\\.b\\)'
    """
    return _PUNCTUATION.sub(r"\\\g<0>", visible(text))

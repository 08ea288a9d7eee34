"""How text and figures reach the screen: text from a disk made harmless and visible, sizes in words."""

import unicodedata

# Unicode categories whose characters change how their neighbours look and show nothing themselves: control, format
# (bidirectional overrides, zero-width), lone surrogates (bytes of a file name that are not UTF-8), private, unassigned.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    r"""Write every character that hides, reorders or breaks text as its code, and leave all others alone.

    >>> visible("d4\u202e\x1b[31m")
    'd4\\u202e\\x1b[31m'

    The result is plain text, safe for `st.text`, `st.code` and table cells. It is not escaped for HTML or Markdown.
    """
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _INVISIBLE
        else character
        for character in text
    )


def readable_size(size: int) -> str:
    """Bytes in decimal units, as disks are sold: 999 bytes, 8.9 MB, 2.6 GB.

    >>> readable_size(8_943_100)
    '8.9 MB'
    """
    if size < 1000:
        return f"{size} byte{'' if size == 1 else 's'}"
    exponent = 1
    while size / 1000**exponent >= 999.95 and exponent < 4:  # 999.95 would be written as 1000.0
        exponent += 1
    return f"{size / 1000**exponent:.1f} {('kB', 'MB', 'GB', 'TB')[exponent - 1]}"

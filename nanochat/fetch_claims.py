"""What a server says of a file, in headers that may be missing, wrong or absurd: read once, here, with a limit each.

Hugging Face gives the size and the SHA-256 of a large file in the answer that redirects to the file itself
(X-Linked-Size, X-Linked-ETag); others may state a digest in Repr-Digest (RFC 9530). A header that says nothing is as
good as none. One that says something impossible ends the download of that file: `ClaimError`, half a sentence.

`fetch_file.py` uses it. Nothing here prints or asks a server.
"""

from __future__ import annotations

import base64
import email.utils
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from nanochat.checkpoint_files import shown

if TYPE_CHECKING:
    import requests

_MOST_DIGITS = 18  # of a number in a header: no file has 10^18 bytes


class ClaimError(ValueError):
    """A header that no honest server sends: half a sentence, which the one who asked puts behind the address."""


@dataclass(frozen=True)
class Claim:
    """What a server said of a file."""

    size: int | None = None  # bytes
    sha256: str | None = None  # 64 small hexadecimal digits
    etag: str | None = None  # strong ones only: weak ones may stand for different bytes


def claim_of(answers: Sequence[requests.Response]) -> Claim:
    """What the answers of one download say of the whole file: redirects first, the one with the file last.

    Raises:
        ClaimError: a size or a digest that cannot be one.
    """
    size = sha256 = None
    for step in answers:
        linked = whole_number(step.headers, "X-Linked-Size")
        size = size if linked is None else linked
        tag = step.headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
        sha256 = tag.lower() if re.fullmatch("[0-9a-fA-F]{64}", tag) else sha256
    last = answers[-1]
    if sha256 is None:
        sha256 = _repr_digest(last.headers.get("Repr-Digest", ""))
    if size is None and last.status_code == 206:
        size = _range_of(last.headers.get("Content-Range", ""))[1]
    elif size is None:
        size = whole_number(last.headers, "Content-Length")
    etag = last.headers.get("ETag", "")
    return Claim(size, sha256, etag if re.fullmatch(r'"[!-~]*"', etag) else None)


def claim_from_json(facts: Any) -> Claim:
    """A claim as `dataclasses.asdict` of one gives it; the empty one where it is anything else."""
    if not isinstance(facts, dict) or set(facts) != {"size", "sha256", "etag"}:
        return Claim()
    size, sha256, etag = facts["size"], facts["sha256"], facts["etag"]
    good = size is None or (type(size) is int and 0 <= size < 10**_MOST_DIGITS)
    good = good and (sha256 is None or (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256) is not None))
    good = good and (etag is None or (isinstance(etag, str) and re.fullmatch(r'"[!-~]*"', etag) is not None))
    return Claim(size, sha256, etag) if good else Claim()


def whole_number(headers: Mapping[str, str], name: str) -> int | None:
    """The number of bytes in a header, None where there is no such header.

    Raises:
        ClaimError: it is no number of bytes that a file can have.
    """
    value = headers.get(name, "").strip()
    if not value:
        return None
    # requests joins a header that came twice with a comma; the same number twice is one that some proxies send.
    values = {part.strip() for part in value.split(",")}
    number = values.pop() if len(values) == 1 else ""
    if not re.fullmatch(r"[0-9]+", number) or len(number) > _MOST_DIGITS:
        raise ClaimError(f"the server states the size '{shown(value, 40)}' ({name}), which no file can have")
    return int(number)


def starts_at(response: requests.Response) -> int | None:
    """The first byte of a partial answer, None where it does not say.

    Raises:
        ClaimError: a number that no file can have.
    """
    return _range_of(response.headers.get("Content-Range", ""))[0]


def retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait, from a number or a date; None where it says nothing."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,300}", value):
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError, IndexError):  # what Python's reader of dates gives for others
        return None


def redirected(response: requests.Response, url: str) -> str | None:
    """Where an answer to `url` leads, None where it is the end.

    Raises:
        ClaimError: nowhere, to something that is no web address, or from https to an unprotected one.
    """
    if response.status_code not in (301, 302, 303, 307, 308):
        return None
    to = response.headers.get("Location", "").strip()
    if not to:
        raise ClaimError(f"the server leads elsewhere ({response.status_code}) and does not say where")
    try:
        # Headers are read as Latin-1, and addresses in them are meant as UTF-8.
        target = urljoin(url, to.encode("latin-1", "replace").decode("utf-8", "replace"))
        parts = urlsplit(target)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # brackets that do not match, a port that is none
        is_address = False
    if not is_address:
        raise ClaimError(f"the server leads to '{shown(to, 80)}', which is not followed: no address on the web")
    if url.lower().startswith("https:") and parts.scheme != "https":
        raise ClaimError("the server leads from https to an unprotected address; it is not followed")
    return target


def public(url: str) -> str:
    """An address as others may read it: without user, password and query, which may hold a key.

    >>> public("https://me:secret@host/a.bin?key=1")
    'https://host/a.bin'
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not match
        return "an address that is none"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _range_of(stated: str) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) of `bytes 5-9/300`, None for what it does not say."""
    match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", stated.strip())
    if match is None:
        return None, None
    if max(map(len, match.groups())) > _MOST_DIGITS:
        raise ClaimError(f"the server sends the part '{shown(stated, 40)}', which no file can have")
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _repr_digest(header: str) -> str | None:
    digest = re.search(r"sha-256=([^,\s]*)", header)
    if digest is None:
        return None
    try:
        raw = base64.b64decode(digest[1].strip(":"), validate=True)
    except ValueError:  # binascii's, and that of letters beyond ASCII
        raw = b""
    if len(raw) != 32 or not re.fullmatch(":.*:", digest[1]):
        raise ClaimError(f"the server states the digest '{shown(digest[1], 60)}' (Repr-Digest), which is no SHA-256")
    return raw.hex()

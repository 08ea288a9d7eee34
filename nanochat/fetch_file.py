"""Download one file so that what takes its name is that file, whole: resumed after a break, and checked.

It grows under a hidden name, `.shard_00000.parquet.part`, and beside that stands what the server said of it (ETag,
size, SHA-256; `fetch_claims.py` reads it). A broken download goes on where it broke (Range), and only if it is still
the same file (If-Range). Nothing a server says is believed alone: a range must begin where it was asked to, the end
must fit in size, in digest, and in parquet's own marks, and a file of unstated size has a limit. A length that is
stated too short, without any of the others, is the one lie that cannot be found.

`fetch.py` runs several of these; `nanochat fetch` is the command. Nothing here prints.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from nanochat import __version__, durable
from nanochat.checkpoint_files import CheckpointError, location, read_small, shown
from nanochat.dataset_parquet import require_whole
from nanochat.dataset_split import DatasetError
from nanochat.fetch_claims import (
    Claim,
    ClaimError,
    claim_from_json,
    claim_of,
    public,
    redirected,
    retry_after,
    starts_at,
)
from nanochat.paths import readable_size

if TYPE_CHECKING:
    import requests

_BLOCK = 1 << 16  # bytes read at once; between two blocks a stop is noticed
_PROGRESS = 1 << 16  # bytes beyond the best so far that make a new attempt worth the same patience
_REJECTIONS = 3  # whole files with wrong content, or files that changed on the way, before we give up
_REDIRECTS = 10  # in a row; Hugging Face needs one or two
_MOST_FACTS = 1 << 16  # bytes of our own notes beside a download
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


class FetchError(ValueError):
    """A file could not be downloaded: one line with its address, what happened and what to do."""


class StoppedError(FetchError):
    """The download was stopped on request. What arrived is kept."""


@dataclass(frozen=True)
class Patience:
    """How long to go on when a server does not do what it should."""

    attempts: int = 8  # failures in a row, without progress
    first_wait: float = 1.0  # seconds after the first failure; doubled after each, less a random part
    longest_wait: float = 60.0  # seconds
    longest_demand: float = 600.0  # seconds; a server that asks for more (Retry-After) ends the attempt
    timeout: float = 30.0  # seconds without a byte
    most_unstated: int = 2 * 10**9  # bytes of a file whose size the server does not state; it might never end


class _TemporaryError(Exception):
    """Something that another attempt may not meet."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait  # seconds, where the server named them


class _RejectedError(Exception):
    """What arrived is not the file; it is thrown away."""


class FileFetch:
    """The download of one file to `target`.

    stop: set it to end the download soon. on_progress: called with (bytes here, bytes in all or None).
    """

    def __init__(
        self,
        url: str,
        target: Path,
        session: requests.Session,
        patience: Patience | None = None,
        stop: threading.Event | None = None,
        on_progress: Callable[[int, int | None], None] = lambda here, total: None,
    ) -> None:
        self.url, self.target, self.session = url, target, session
        # Even unasked, requests works out where a redirect leads, and reads the body that came with it, however long.
        session.get_redirect_target = lambda resp: None  # type: ignore[method-assign]
        self.patience = patience or Patience()
        self.stop = stop or threading.Event()
        self.on_progress = on_progress
        self.part = target.with_name(f".{target.name}.part")
        self.facts = target.with_name(f".{target.name}.part.json")

    def run(self) -> int:
        """Download the file, going on with what an earlier attempt left. Returns its size in bytes.

        Raises:
            FetchError: it cannot be had, or not whole. Nothing stands under the file's name then.
        """
        failures = rejections = best = 0
        while True:
            try:
                claim = self._transfer()
                self._check(claim)
                return self._publish()
            except _RejectedError as problem:
                rejections += 1
                self._discard()
                if rejections >= _REJECTIONS:
                    self._give_up(f"{problem}, {rejections} times; try again later, or from another place")
                problem_words, wait = str(problem), None
            except _TemporaryError as problem:
                problem_words, wait = str(problem), problem.wait
            except OSError as error:
                self._give_up(f"it cannot be written ({shown(error.strerror or error)}); free some space, run it again")
            except CheckpointError as error:  # durable.py's, with the path and the reason
                self._give_up(str(error))
            except ClaimError as error:
                self._give_up(f"{error}; get it from another place")
            here = self._here()
            failures = 1 if here > best + _PROGRESS else failures + 1
            best = max(best, here)
            if failures >= self.patience.attempts:
                self._give_up(
                    f"{problem_words}, {failures} times in a row; what arrived is kept: run it again to go on"
                )
            self._wait(failures, wait)

    def _wait(self, failures: int, demanded: float | None) -> None:
        patience = self.patience
        if demanded is not None and demanded > patience.longest_demand:
            self._give_up(f"the server asks to wait {demanded:,.0f} seconds; run it again then, to go on")
        wait = min(patience.first_wait * 2 ** (failures - 1), patience.longest_wait) * random.uniform(0.5, 1)
        if self.stop.wait(wait if demanded is None else demanded + random.uniform(0, patience.first_wait)):
            self._stopped()

    def _transfer(self) -> Claim:
        """One connection. Returns what the server claimed when all bytes are here."""
        claim, here = self._read_facts(), self._here()
        if here and not (claim.sha256 or claim.etag):
            here = 0  # nothing could tell whether the rest belongs to the same file
        if claim.size is not None and here == claim.size:
            if public(self.url) == self.url:
                return claim
            here = 0  # the part that is not kept may have named another file, and nobody would be asked
        if claim.size is not None and here > claim.size:
            raise _RejectedError("more bytes came than the server had stated")
        answers = self._ask(here, claim)
        with answers[-1] as response:
            stated = claim_of(answers)
            if response.status_code == 416 and here:
                return self._no_more(claim, response)
            self._require_success(response, here)
            if response.status_code == 206:
                self._require_range(response, here)
                known = [name for name in ("size", "sha256", "etag") if getattr(claim, name) and getattr(stated, name)]
                if any(getattr(claim, name) != getattr(stated, name) for name in known):
                    raise _RejectedError("the file on the server changed while it was being fetched")
                claim = Claim(claim.size or stated.size, claim.sha256 or stated.sha256, claim.etag or stated.etag)
            else:
                here, claim = 0, stated
                chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
                if claim.size is None and not (chunked or claim.sha256):
                    self._give_up("the server does not say how long it is, so its end cannot be told from a break")
            with open(self.part, "ab" if here else "wb") as file:
                if not here:
                    self._write_facts(claim)
                return self._receive(response, file, here, claim)

    def _ask(self, here: int, claim: Claim) -> list[requests.Response]:
        """The answers to one request: the redirects in order, then the one they led to, its body not read yet."""
        headers = {"Accept-Encoding": "identity", "User-Agent": f"nanochat-lab/{__version__}"}
        if here:
            headers["Range"] = f"bytes={here}-"
            if claim.etag:
                headers["If-Range"] = claim.etag
        answers = [self._ask_once(self.url, headers)]
        url = self.url
        # One by one, because each has to be judged before it is followed.
        while (to := redirected(answers[-1], url)) is not None:
            answers[-1].close()
            if len(answers) > _REDIRECTS:
                self._give_up(f"the server leads from one address to the next, {_REDIRECTS} times; try again later")
            url = to
            answers.append(self._ask_once(url, headers))
        return answers

    def _ask_once(self, url: str, headers: dict[str, str]) -> requests.Response:
        import requests
        import urllib3

        timeout = self.patience.timeout
        try:
            return self.session.get(url, headers=headers, stream=True, timeout=timeout, allow_redirects=False)
        except requests.exceptions.SSLError as error:
            self._give_up(f"the server's certificate is not accepted ({shown(error)}); check clock and network")
        except (
            *(requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema),
            *(urllib3.exceptions.LocationValueError, UnicodeError),  # of names of hosts that requests lets pass
        ):
            where = "" if url == self.url else f"the server leads to '{shown(public(url), 80)}': "
            self._give_up(f"{where}this is not an address; it must begin with https:// or http:// and name a host")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _TemporaryError(f"no answer ({type(error).__name__})") from None

    def _require_success(self, response: requests.Response, here: int) -> None:
        status = response.status_code
        if status in _RETRY_STATUS:
            raise _TemporaryError(f"the server answers {status} ({shown(response.reason)})", retry_after(response))
        if status in (404, 410):
            self._give_up(f"the server has no such file ({status}); check the address")
        if status in (401, 403):
            self._give_up(
                f"the server refuses it ({status}); it may be private, or need a login that this tool has not"
            )
        if status != 200 and not (status == 206 and here):
            self._give_up(f"the server answers {status} ({shown(response.reason)}); try again later")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            self._give_up("the server sends it packed, though asked not to, so it cannot be resumed or checked")

    def _receive(self, response: requests.Response, file: BinaryIO, here: int, claim: Claim) -> Claim:
        import urllib3

        self.on_progress(here, claim.size)
        try:
            for block in response.raw.stream(_BLOCK, decode_content=False):
                file.write(block)
                here += len(block)
                if claim.size is not None and here > claim.size:
                    raise _RejectedError("more bytes came than the server had stated")
                if claim.size is None and here > self.patience.most_unstated:
                    self._refuse_endless()
                self.on_progress(here, claim.size)
                if self.stop.is_set():
                    self._stopped()
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise _TemporaryError(f"the connection broke ({type(error).__name__})") from None
        finally:
            file.flush()
            os.fsync(file.fileno())
        if claim.size is not None and here < claim.size:
            raise _TemporaryError(f"the connection ended after {here:,} of {claim.size:,} bytes")
        return claim

    def _refuse_endless(self) -> NoReturn:
        """Leave a body that goes on and on; what came of it is no part of anything that could be finished."""
        self._discard()
        limit = readable_size(self.patience.most_unstated)
        self._give_up(
            f"the server does not state its size and sent more than {limit}, the most that is taken of such a file; "
            "raise that (--max-unstated) if it is meant to be so large"
        )

    def _no_more(self, claim: Claim, response: requests.Response) -> Claim:
        """The server says that there is nothing behind the bytes we have. Only a digest can settle that."""
        if claim.sha256:
            return Claim(None, claim.sha256, claim.etag)
        raise _RejectedError("the server stated one size and then another")

    def _check(self, claim: Claim) -> None:
        """Compare the bytes on the disk with all that is known of them."""
        if claim.sha256:
            with open(self.part, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != claim.sha256:
                raise _RejectedError("what arrived has not the SHA-256 that the server stated")
        if self.target.suffix == ".parquet":
            try:
                require_whole(self.part)
            except DatasetError:
                raise _RejectedError("what arrived is not a whole parquet file") from None

    def _publish(self) -> int:
        size = self._here()
        durable.publish(durable.Staged(self.target, self.part, size, ""))  # synced as it was written
        durable.discard(self.facts)
        durable.sync_folder(self.target.parent)
        return size

    def _here(self) -> int:
        if not os.path.lexists(self.part):
            return 0
        if not self.part.is_file():  # a pipe would keep us waiting for ever
            self._give_up(f"{location(self.part)} is in the way and is not a file; remove it")
        return self.part.stat().st_size

    def _read_facts(self) -> Claim:
        try:
            facts = json.loads(read_small(self.facts, _MOST_FACTS))
            return claim_from_json(facts["claim"]) if facts["url"] == public(self.url) else Claim()
        except (ValueError, TypeError, KeyError, RecursionError):
            return Claim()  # none yet, or cut short by a kill: the download begins anew

    def _require_range(self, response: requests.Response, here: int) -> None:
        """A partial answer must begin with the byte that was asked for."""
        if starts_at(response) != here:
            stated = shown(response.headers.get("Content-Range", ""))
            raise _RejectedError(f"the server was asked for byte {here:,} on and sent another part ({stated})")

    def _write_facts(self, claim: Claim) -> None:
        content = json.dumps({"url": public(self.url), "claim": asdict(claim)}).encode()
        durable.publish(durable.stage_bytes(self.facts, content))

    def _discard(self) -> None:
        durable.discard(self.part)
        durable.discard(self.facts)

    def _stopped(self) -> NoReturn:
        raise StoppedError(f"{shown(public(self.url), 200)}: stopped; what arrived is kept: run it again to go on")

    def _give_up(self, why: str) -> NoReturn:
        raise FetchError(f"{shown(public(self.url), 200)}: {why}")

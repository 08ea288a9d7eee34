"""Headers that are missing, wrong or absurd: each ends its own file in one sentence, and the other files come."""

import base64
import hashlib

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.fetch import fetch_all
from nanochat.fetch_claims import Claim, ClaimError, claim_from_json, claim_of, redirected, retry_after, starts_at
from nanochat.fetch_file import Patience
from tests.fetch_support import loopback, serve, status

QUICK = Patience(attempts=2, first_wait=0.001, longest_wait=0.01, timeout=5)
CONTENT = b"the content of this file\n" * 100
DIGEST = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()


def answer(code: int = 200, **headers: str) -> requests.Response:
    response = requests.Response()
    response.status_code = code
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


def looping(request) -> None:
    request.head(302, Location=f"{request.server.url}/bad.bin", Content_Length=0)


HOSTILE = {
    "no Location": (status(302), "does not say where"),
    "empty Location": (status(307, Location=""), "does not say where"),
    "a loop": (looping, "from one address to the next"),
    "a private file": (status(302, Location="file:///etc/passwd"), "no address on the web"),
    "another scheme": (status(301, Location="ftp://x/a"), "no address on the web"),
    "data": (status(302, Location="data:text/plain,x"), "no address on the web"),
    "brackets": (status(302, Location="http://[/a"), "no address on the web"),
    "a port that is none": (status(302, Location="http://localhost:99999999/a"), "no address on the web"),
    "no host": (status(302, Location="https:///a"), "no address on the web"),
    "a host of dots": (status(302, Location="http://.../a"), "not an address"),
    "a host too long": (status(302, Location=f"http://{'a' * 300}/a"), "not an address"),
    "not base64": (serve(Repr_Digest="sha-256=:!!!:"), "no SHA-256"),
    "odd base64": (serve(Repr_Digest="sha-256=:A:"), "no SHA-256"),
    "short digest": (serve(Repr_Digest="sha-256=:AAAA:"), "no SHA-256"),
    "digest without colons": (serve(Repr_Digest=f"sha-256={DIGEST}"), "no SHA-256"),
    "negative size": (serve(X_Linked_Size="-5"), "states the size '-5'"),
    "a size of 5,000 digits": (serve(X_Linked_Size="9" * 5000), "no file can have"),
    "a size of 10^30": (serve(X_Linked_Size=10**30), "no file can have"),
    "a size of 10^17": (serve(X_Linked_Size=10**17), "free"),
    "half a size": (serve(X_Linked_Size="1.5"), "no file can have"),
    "two sizes": (serve(X_Linked_Size="5, 6"), "no file can have"),
    "odd digits": (serve(X_Linked_Size="\xb2"), "no file can have"),
    "negative length": (
        lambda request: request.head(200, Content_Length="-1"),
        "no file can have",
    ),
    "wait for ever": (status(429, Retry_After="9" * 400), "answers 429"),
    "wait in no year": (status(429, Retry_After="Mon, 01 Jan 0000 00:00:00 GMT"), "answers 429"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_costs_its_own_file_alone(case, tmp_path):
    hostile, words = HOSTILE[case]
    with loopback(good__bin=CONTENT, bad__bin=CONTENT) as server:
        normal = serve()
        server.usual = lambda request: (hostile if request.handler.path == "/bad.bin" else normal)(request)
        report = fetch_all([f"{server.url}/bad.bin", f"{server.url}/good.bin"], tmp_path, 1, QUICK)
    assert report.fetched == ["good.bin"]
    assert list(report.failed) == ["bad.bin"]
    why = report.failed["bad.bin"]
    assert words in why
    assert why.isprintable()
    assert len(why) < 500
    assert not (tmp_path / "bad.bin").exists()


def test_https_leads_to_https_alone_and_nothing_else_is_asked():
    assert redirected(answer(302, Location="https://b/x"), "https://a/x") == "https://b/x"
    assert redirected(answer(302, Location="/y"), "https://a/x") == "https://a/y"
    assert redirected(answer(302, Location="https://b/x"), "http://a/x") == "https://b/x"
    assert redirected(answer(200, Location="https://b/x"), "https://a/x") is None
    for url in ("https://a/x", "HTTPS://a/x"):
        for location in ("http://b/x", "HTTP://b/x", "http:/y"):
            with pytest.raises(ClaimError):
                redirected(answer(302, Location=location), url)


def test_what_is_right_is_read():
    linked = answer(302, X_Linked_Size="7", X_Linked_ETag=f'"{"AB" * 32}"')
    assert claim_of([linked, answer(Content_Length="5")]) == Claim(7, "ab" * 32, None)
    assert claim_of([answer(Content_Length="5, 5", ETag='"a"')]) == Claim(5, None, '"a"')
    assert claim_of([answer(ETag='W/"a"')]) == Claim()
    assert claim_of([answer(206, Content_Range="bytes 2-4/9", Content_Length="3")]) == Claim(9)
    assert claim_of([answer(206, Content_Range="bytes 2-4/*", Content_Length="3")]) == Claim()
    digest = answer(Repr_Digest=f"md5=:AAAA:, sha-256=:{DIGEST}:, x=:A:")
    assert claim_of([digest]).sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert starts_at(answer(206, Content_Range="bytes 2-4/9")) == 2
    assert retry_after(answer(429, Retry_After="7")) == 7


NAMES = ["X-Linked-Size", "X-Linked-ETag", "Content-Length", "Content-Range", "Repr-Digest", "ETag", "Retry-After"]
VALUES = st.text(st.characters(max_codepoint=255)) | st.from_regex(
    r"(bytes [0-9]{0,30}-[0-9]{1,3}/[0-9*]{1,30}|sha-256=:?[A-Z0-9+/=]{0,50}:?|-?[0-9]{1,30}|https?:[/a-z.:\[]{0,9})",
    fullmatch=True,
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from([*NAMES, "Location"]), VALUES), st.sampled_from([200, 206, 302, 416]))
def test_any_headers_are_read_or_refused_in_one_line(headers, code):
    response = requests.Response()
    response.status_code = code
    response.headers.update(headers)
    readings = [lambda: claim_of([response]), lambda: starts_at(response), lambda: retry_after(response)]
    for reading in [*readings, lambda: redirected(response, "https://a/x")]:
        said = ""
        try:
            reading()
        except ClaimError as error:
            said = str(error)
        assert said.isprintable()
        assert len(said) < 250


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
)


@settings(max_examples=80, deadline=None)
@given(JSON | st.fixed_dictionaries({"size": JSON, "sha256": JSON, "etag": JSON}))
def test_notes_beside_a_download_are_a_claim_or_none(facts):
    claim = claim_from_json(facts)
    assert claim.size is None or (type(claim.size) is int and claim.size >= 0)
    assert claim.sha256 is None or len(claim.sha256) == 64
    assert claim.etag is None or claim.etag.startswith('"')


def test_the_body_of_a_redirect_is_not_read(tmp_path):
    """It could be without end, and nobody needs it."""

    def endless(request):
        request.head(302, Location=f"{request.server.url}/store", Transfer_Encoding="chunked")
        for _ in range(10_000):
            request.body(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            request.server.sent = getattr(request.server, "sent", 0) + 1

    with loopback(a__bin=CONTENT, store=CONTENT) as server:
        server.answers.append(endless)
        assert fetch_all([f"{server.url}/a.bin"], tmp_path, 1, QUICK).fetched == ["a.bin"]
        assert getattr(server, "sent", 0) < 1000

from __future__ import annotations

import pytest

from skyfuse.errors import DataError, FileError, UsageError
from skyfuse.fetch.client import Client
from tests.fetch.standin import Reply, served


def test_a_host_known_by_tls_is_never_asked_in_the_clear() -> None:
    client = Client(["https://archive.example/base"])
    assert client._admit("http://archive.example/a?b#c") == "https://archive.example/a?b#c"
    assert (
        Client(["http://archive.example"])._admit("https://archive.example/a") == "https://archive.example/a"
    )
    for url in ("http://archive.example:8080/a", "https://archive.example:8443/a", "ftp://archive.example/a"):
        with pytest.raises(FileError, match="is not of this archive"):
            client._admit(url)


def test_an_archive_must_be_an_address() -> None:
    with pytest.raises(
        UsageError, match=r"no address of a server: 'localhost:8000'; give it as https://host"
    ):
        Client(["localhost:8000"])


@pytest.mark.usefixtures("soon")
def test_queries_are_retried_and_redirected_and_keep_what_the_service_says() -> None:
    replies = [
        Reply(status=500),
        Reply(b"<html>no</html>"),
        Reply(status=303, headers={"Location": "/job/1"}),
    ]

    def refuse(content: bytes) -> None:
        if b"<html" in content:
            raise FileError("it is a page", reason="html-page", remedy="ask again")

    job = Reply(b"rows", headers={"X-More": "yes"})
    with served(a=replies, **{"job/1": job}) as server, Client([server.url]) as client:
        answer = client.post(f"{server.url}/a", data={"q": "SELECT 1 & 2"}, accept=refuse)
        methods = [request.method for request in server.seen]
        form = server.seen[0].form()
    assert (answer.content, answer.url, answer.status) == (b"rows", f"{server.url}/job/1", 200)
    assert answer.headers["x-more"] == "yes"
    assert methods == ["POST", "POST", "POST", "GET"]
    assert form == {"q": "SELECT 1 & 2"}


def test_uploads_go_as_a_form_of_parts() -> None:
    with served(a=Reply(b"rows")) as server, Client([server.url]) as client:
        upload = {"table": ("t.vot", b"<VOTABLE/>", "application/x-votable+xml")}
        client.post(f"{server.url}/a", data={"LANG": "ADQL"}, files=upload)
        (request,) = server.seen
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b'name="table"; filename="t.vot"\r\nContent-Type: application/x-votable+xml\r\n' in request.body
    assert b"<VOTABLE/>" in request.body
    assert b'name="LANG"\r\n\r\nADQL' in request.body


def test_a_refused_query_says_why_in_one_line() -> None:
    page = Reply(b"<html><b>Incorrect syntax</b>\n near 'FORM'</html>", 400, type="text/html")
    with served(a=page) as server, Client([server.url]) as client:
        with pytest.raises(DataError, match=r"gives no answer: .*400.* Incorrect syntax near 'FORM'"):
            client.get(f"{server.url}/a", params={"cmd": "SELECT"})
        assert client.get(f"{server.url}/a", ok=(200, 400)).status == 400
        assert server.seen[0].query == {"cmd": "SELECT"}

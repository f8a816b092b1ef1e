import pytest

from skyfuse.errors import DataError, FileError
from skyfuse.fetch.archives import QUERIES_A_MINUTE, Archives
from skyfuse.fetch.client import Answer
from skyfuse.fetch.skyserver import SkyServer
from skyfuse.fetch.sql import Clock

TABLE = b"#Table1\nn,row_end\n7,.\n"
TOO_MANY = b"#Table1\nerror_message\nERROR: Maximum 60 queries allowed per minute. Rejected query: x\n"


class Line:
    """A client that gives prepared answers, and a clock that waiting moves on."""

    def __init__(self, *answers):
        self.answers, self.requests, self.slept, self.now = list(answers), [], [], 0.0

    def get(self, url, *, params, accept):
        return self._answer("GET", url, params, accept)

    def post(self, url, *, data, accept):
        return self._answer("POST", url, data, accept)

    def _answer(self, method, url, fields, accept):
        self.requests.append((method, url, fields, self.now))
        content = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        accept(content)
        return Answer(200, url, {}, content)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def server(self, release="dr17"):
        return SkyServer(self, Archives(release), Clock(lambda: self.now, self.sleep))


def test_a_query_and_its_answer():
    line = Line(TABLE)
    answer = line.server().ask("SELECT 7 AS n")
    assert (answer.columns, list(answer.rows)) == (["n"], [["7"]])
    method, url, fields, _ = line.requests[0]
    assert method == "GET"
    assert url == "https://skyserver.sdss.org/dr17/SkyServerWS/SearchTools/SqlSearch"
    assert fields == {"cmd": "SELECT 7 AS n", "format": "csv"}


def test_a_long_query_is_posted():
    line = Line(TABLE)
    line.server().ask("SELECT " + "a, " * 800 + "b")
    assert line.requests[0][0] == "POST"


def test_no_more_queries_than_the_service_takes():
    line = Line(TABLE)
    server = line.server()
    for _ in range(3 * QUERIES_A_MINUTE):
        server.ask("SELECT 1")
    times = [when for *_, when in line.requests]
    for start in times:
        assert sum(start <= when < start + 60 for when in times) <= QUERIES_A_MINUTE


def test_a_refusal_for_haste_is_waited_out():
    line = Line(TOO_MANY, TABLE)
    assert list(line.server().ask("SELECT 1").rows) == [["7"]]
    assert line.slept == [60.0]
    with pytest.raises(DataError, match="Maximum 60 queries"):
        Line(TOO_MANY).server().ask("SELECT 1")


@pytest.mark.parametrize("content", [b"<html>Error: something went wrong</html>", b"n,row_end\n7", b""])
def test_what_is_no_table_is_told_to_the_client_which_asks_again(content):
    with pytest.raises(FileError, match="no whole table came"):
        Line(content).server().ask("SELECT 1")


def test_an_error_of_the_query_is_told_at_once():
    line = Line(b'#Table1\nerror_message\n"error: must be a select statement: DROP"\n')
    with pytest.raises(DataError, match="must be a select statement"):
        line.server().ask("DROP")
    assert len(line.requests) == 1


def test_nothing_found_is_an_empty_answer():
    answer = Line(b"No objects have been found").server("dr9").ask("SELECT 1")
    assert (answer.columns, list(answer.rows)) == ([], [])


def test_a_page_is_never_above_the_documented_cap():
    assert Line(TABLE).server("dr7").page <= 100_000

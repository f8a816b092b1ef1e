"""A mock sky with known truth, written in the surveys' own formats."""

from skyfuse.mock.write import MockSummary, write_mock

__all__ = ["MockSummary", "write_mock"]

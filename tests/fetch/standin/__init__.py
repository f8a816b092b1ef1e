"""A stand-in archive: an HTTP server that serves what a handler gives, late, and badly when asked to."""

from tests.fetch.standin.server import FAULTS, Count, Reply, Request, Standin, served

__all__ = ["FAULTS", "Count", "Reply", "Request", "Standin", "served"]

"""Readers: the only code that knows a survey's file format."""

"""Downloads: what was asked for, whole and checked, or a line that says what is missing and why."""

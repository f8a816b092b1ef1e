"""One way to make a reader or a model of one's own known to this process."""

from __future__ import annotations

from typing import Any

from skyfuse.errors import UsageError


def register(thing: Any) -> Any:
    """Let a reader or a model class of one's own work in every verb, until the process ends.

    It is Python code and runs with the user's rights; files of data, descriptions of instruments, recipes and
    model folders never run anything. Installed packages need no call: they name theirs as entry points of the
    groups ``skyfuse.readers`` and ``skyfuse.models``.

    Parameters
    ----------
    thing : Reader or type
        An instance of what `skyfuse.survey.reader.Reader` asks for, or a subclass of `skyfuse.models.Model`.

    Returns
    -------
    Reader or type
        The same, so that this serves as a decorator of model classes.

    Raises
    ------
    UsageError
        If it is neither, lacks what it must have, or its name is taken.

    Examples
    --------
    >>> import skyfuse as sf
    >>> sf.register(MyReader())  # doctest: +SKIP
    >>> @sf.register  # doctest: +SKIP
    ... class MyModel(sf.Model): ...
    """
    from skyfuse.models.base import Model
    from skyfuse.models.registry import register_model
    from skyfuse.survey import registry
    from skyfuse.survey.reader import Reader

    if isinstance(thing, type) and issubclass(thing, Model):
        return register_model(thing)
    if isinstance(thing, type) or not isinstance(thing, Reader):
        raise UsageError(
            f"{thing!r} is neither a reader nor a class of models",
            remedy="give an instance with all that skyfuse.survey.reader.Reader has, or a subclass of "
            "skyfuse.models.Model",
        )
    registry.register(thing)
    return thing

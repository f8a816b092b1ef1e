"""Models that are made of other fitted models, which lie in folders of their own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from skyfuse.models.base import Model


class MembersModel(Model):
    """What models of fitted models share.

    Attributes
    ----------
    members : list of Model
        Fitted.
    """

    members: list[Model]

    def _save_members(self, folder: Path) -> list[str]:
        """Save each member, and return the names by which `skyfuse.models.files.load_members` finds them."""
        names = [f"member-{i}" for i in range(len(self.members))]
        for name, member in zip(names, self.members, strict=True):
            member.save(folder / name)
        return names

    @classmethod
    def _empty(cls, params: dict[str, Any]) -> Self:
        # The constructor wants members, which `_read` brings.
        model = cls.__new__(cls)
        Model.__init__(model, **params)
        return model

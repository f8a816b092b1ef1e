"""All kinds of sources, by name.

A source turns paths into a draft of a dataset (`skyfuse.dataset.content.Draft`), and tells of every record in
them what became of it. A further source is a class of its own and one entry of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from skyfuse.dataset.sources.cube import CubeSource
from skyfuse.dataset.sources.gaia import GaiaSource
from skyfuse.dataset.sources.images import ImageSource
from skyfuse.dataset.sources.protocol import Source
from skyfuse.dataset.sources.scene import SceneSource
from skyfuse.dataset.sources.table import TableSource

_ALL: tuple[Source, ...] = (CubeSource(), TableSource(), GaiaSource(), ImageSource(), SceneSource())

SOURCES: Mapping[str, Source] = MappingProxyType({source.name: source for source in _ALL})
"""Sources by the name by which a recipe's ``reader`` calls them."""

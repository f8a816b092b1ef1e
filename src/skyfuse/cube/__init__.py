"""The cube: images and spectra in tiles, at every zoom with their uncertainties.

On the way in: ``build`` is the whole of it; ``scan`` walks the inputs, ``standing`` guards what the cube
holds already, ``tiles`` plans the sky and builds one tile of it, ``staging`` puts what is new in place in one
step.

In a tile: ``grid`` tells where samples lie, ``pyramid`` makes the zooms, ``cutout`` cuts objects out of
frames, ``layout`` writes arrays and maps them, ``catalogue`` the indexes beside them.

On the way out: ``query`` answers, ``region`` says what lies where, ``export`` writes files for other
programs, ``check`` looks at every byte.
"""

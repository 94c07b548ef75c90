"""Model families. `load` finds a bundled name, a local folder or a Hub id and returns its backbone."""

from reinvert.collection import paused_collection

with paused_collection():  # torch is imported here, if nobody has done so before
    from reinvert.backbones.base import Backbone
    from reinvert.backbones.loading import load

__all__ = ["Backbone", "load"]

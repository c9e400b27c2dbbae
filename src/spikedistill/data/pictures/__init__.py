"""Pictures: decoded, prepared, held in memory or read from folders, and changed at random."""

from spikedistill.data.pictures.prepare import prepared_picture

__all__ = ["prepared_picture"]

"""Errors of the workshop; like all of sam2_rt's, each says what to do."""

from sam2_rt.errors import Sam2RtError


class CheckpointError(Sam2RtError):
    """A checkpoint cannot be read, or is not of the network it should be loaded into."""


class ExportError(Sam2RtError):
    """A network cannot be exported as asked."""


class FetchError(Sam2RtError):
    """A checkpoint could not be downloaded, or what came is not the expected file."""

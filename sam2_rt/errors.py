"""Errors a caller can act on. Every message says what was expected, what came, what to do."""


class Sam2RtError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(Sam2RtError):
    """A setting is out of range or contradicts another; raised when it is constructed."""


class InputError(Sam2RtError):
    """A frame cannot be used: wrong shape, type or size."""


class PromptError(Sam2RtError):
    """A prompt or an object id cannot be used; nothing that is tracked has changed."""


class EngineError(Sam2RtError):
    """An engine folder is missing, incomplete, corrupt or of another version."""


class BackendError(Sam2RtError):
    """A runtime is not installed, lacks its device, or failed while running a graph."""


class DeviceMemoryError(BackendError):
    """The accelerator's memory is full; with less to hold, the same program may run."""


class DeviceLostError(BackendError):
    """The accelerator cannot be used by this process any more; only a restart helps."""


class SourceError(Sam2RtError):
    """A video, folder or camera cannot be opened or stopped delivering."""


class StreamError(Sam2RtError):
    """A stream is closed, has failed, or has more commands waiting than it allows."""


class OutputError(Sam2RtError):
    """A result cannot be written."""

"""Amanda's checksum of a stream: CRC-32C, as libamanda computes it, with the processor's help.

zlib's CRC-32 is another one, and one in plain Python would take minutes for a gigabyte.
"""

import ctypes
import functools
import glob

from amanda_errors import ServerError
from amanda_log import Crc

_PLACES = (
    "/usr/lib/*/amanda/libamanda-[0-9]*.so",  # Debian
    "/usr/lib64/amanda/libamanda-[0-9]*.so",
    "/usr/lib/amanda/libamanda-[0-9]*.so",
)
_CHECK = (b"123456789", 0xE3069283)  # the check value by which CRC catalogues know CRC-32C


class _State(ctypes.Structure):
    """Amanda's ``crc_t``."""

    _fields_ = [("crc", ctypes.c_uint32), ("size", ctypes.c_uint64)]


@functools.lru_cache(maxsize=1)
def library():
    """Return libamanda, loaded and tried on a known value.

    Raises :class:`amanda_errors.ServerError` if it isn't there or computes something else.
    """
    found = sorted(path for pattern in _PLACES for path in glob.glob(pattern))
    if not found:
        raise ServerError("libamanda is missing: install Amanda, which computes the checksums")
    try:
        loaded = ctypes.CDLL(found[-1])
        loaded.crc32_init.argtypes = [ctypes.POINTER(_State)]
        loaded.crc32_init.restype = None
        loaded.crc32_add.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(_State)]
        loaded.crc32_add.restype = None
        loaded.crc32_finish.argtypes = [ctypes.POINTER(_State)]
        loaded.crc32_finish.restype = ctypes.c_uint32
    except (OSError, AttributeError) as error:
        raise ServerError(f"{found[-1]} has no usable checksum: {error}") from error
    checksum = Checksum(loaded)
    checksum.add(bytearray(_CHECK[0]), len(_CHECK[0]))
    if checksum.crc() != Crc(_CHECK[1], len(_CHECK[0])):
        raise ServerError(f"{found[-1]} computes another checksum than CRC-32C")
    return loaded


class Checksum:
    """The checksum and the length of what was added so far.

    loaded
        The library; None loads it.
    """

    def __init__(self, loaded=None):
        self._library = loaded or library()
        self._state = _State()
        self._library.crc32_init(ctypes.byref(self._state))

    @property
    def size(self):
        """Bytes added so far."""
        return self._state.size

    def add(self, buffer, length):
        """Add the first *length* bytes of *buffer*, a bytearray."""
        if length:
            start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
            self._library.crc32_add(start, length, ctypes.byref(self._state))

    def crc(self):
        """Return the :class:`Crc` of everything added."""
        state = _State(self._state.crc, self._state.size)
        return Crc(self._library.crc32_finish(ctypes.byref(state)), state.size)

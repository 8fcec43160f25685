"""DeviceArray: a tensor in device memory, and the pool its memory comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import prod

import numpy as np

from sam2_rt.errors import BackendError, DeviceMemoryError
from sam2_rt.runtime.cuda import Cuda

_GRANULE = 512  # sizes are rounded up to this, so that a freed block fits more requests


class Block:
    """A piece of device memory; it returns to its pool when nothing refers to it any more."""

    def __init__(self, pool: DevicePool, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self._pool = pool

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.nbytes)


class DevicePool:
    """Device memory, reused: once every size in use has been seen, nothing is allocated.

    A block is handed out again while work on it may still be enqueued. That is safe because all
    work is on one stream: the next user's work comes after it. Who uses a block on another stream
    keeps it for as long as that stream lives.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._free: defaultdict[int, list[int]] = defaultdict(list)
        self._addresses: set[int] = set()

    def take(self, nbytes: int) -> Block:
        """A block of at least `nbytes`.

        Raises:
            DeviceMemoryError: the device is full, even without the blocks that lie idle here.
        """
        nbytes = max(1, -(-nbytes // _GRANULE)) * _GRANULE
        idle = self._free[nbytes]
        if idle:
            return Block(self, idle.pop(), nbytes)
        try:
            address = self._cuda.allocate(nbytes)
        except DeviceMemoryError:
            self._release_idle()
            address = self._cuda.allocate(nbytes)
        self._addresses.add(address)
        return Block(self, address, nbytes)

    def array(self, shape: Sequence[int], dtype: str, *, fixed: bool = False) -> DeviceArray:
        """An array in a block of its own; its content is whatever was there."""
        kind = np.dtype(dtype)
        block = self.take(prod(shape) * kind.itemsize)
        return DeviceArray(block, block.address, tuple(shape), kind, fixed=fixed)

    def give_back(self, address: int, nbytes: int) -> None:
        """Called by a block at its end, on any thread; touches no CUDA."""
        if address in self._addresses:
            self._free[nbytes].append(address)

    def _release_idle(self) -> None:
        self._cuda.synchronise()
        for idle in self._free.values():
            while idle:
                address = idle.pop()
                self._addresses.discard(address)
                self._cuda.free(address)

    def close(self) -> None:
        """Frees everything; arrays that still exist must not be used any more."""
        addresses, self._addresses = self._addresses, set()
        self._free.clear()
        for address in addresses:
            self._cuda.free(address)


class DeviceArray:
    """A contiguous tensor in device memory.

    Indexing takes a position or a range of the leading axis and gives a view, as in NumPy.

    Attributes:
        block: the memory it lies in; views share it.
        address: of its first element.
        shape: axis lengths.
        dtype: element type.
        fixed: True if a graph may read it in place: it stays where it is for a long time. Outputs
            of a run are not fixed.
    """

    def __init__(
        self, block: Block, address: int, shape: tuple[int, ...], dtype: np.dtype, *, fixed: bool
    ) -> None:
        self.block, self.address, self.shape, self.dtype = block, address, shape, dtype
        self.fixed = fixed

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice) -> DeviceArray:
        if not self.shape:
            raise BackendError('device array: a scalar has no axis to index')
        length, rest = self.shape[0], self.shape[1:]
        stride = prod(rest) * self.dtype.itemsize
        if isinstance(index, slice):
            start, stop, step = index.indices(length)
            if step != 1:
                raise BackendError(f'device array: expected a range of step 1, got {index}')
            shape = (max(0, stop - start), *rest)
        elif isinstance(index, int | np.integer) and -length <= index < length:
            start, shape = int(index) % length, rest
        else:
            raise BackendError(
                f'device array: expected a position 0..{length - 1} or a range on the leading '
                f'axis of {self.shape}, got {index!r}'
            )
        address = self.address + start * stride
        return DeviceArray(self.block, address, shape, self.dtype, fixed=self.fixed)

    def __iter__(self) -> None:
        # Without this, Python would iterate with __getitem__ until it raises IndexError.
        raise BackendError('device array: its values are on the GPU and cannot be iterated over')

    def __repr__(self) -> str:
        return f'DeviceArray(shape={self.shape}, dtype={self.dtype}, address={self.address:#x})'

"""Data through filters, measured at every stretch of the way.

Between the source, the programs and the reader stand threads: each moves a stretch, takes its
length and CRC-32C on the way, and notes what is wrong before the next one sees the end of its
input. So whoever reads the end of the stream can know at once whether it was whole.
"""

import contextlib
import fcntl
import os
import select
import tempfile
import threading

import amanda_command
import amanda_identity
from amanda_crc import Checksum
from amanda_errors import AmandaError, SealedError, ServerError, unreadable

CHUNK = 1 << 20
_STDERR_LIMIT = 4096


class Stage:
    """What passes at one point of the way, measured, beside what is expected.

    name
        For messages: "on tape".
    expected
        The :class:`amanda_log.Crc` there should be; None if that isn't known.
    padding
        How many zero bytes may follow what is expected; they are taken out.
    """

    def __init__(self, name, expected, padding=0):
        self._name = name
        self._expected = expected
        self._padding = padding
        self._checksum = Checksum()

    def take(self, buffer, length):
        """Take in *length* bytes of *buffer*; return how many of them are to be passed on.

        None once they are more than expected: a dump that was tampered with could otherwise
        expand without end.
        """
        if self._expected is None:
            self._checksum.add(buffer, length)
            return length
        room = self._expected.size - self._checksum.size
        surplus = length - room
        if 0 < surplus <= self._padding and not any(memoryview(buffer)[room:length]):
            self._padding -= surplus
            length = room
        self._checksum.add(buffer, length)
        return length if length <= room else None

    def complaint(self):
        """Return what differs from what is expected, "" if nothing does."""
        found, expected = self._checksum.crc(), self._expected
        if expected in (None, found):
            return ""
        return (
            f"{self._name} it has {found.size} bytes with CRC {found.crc:08x}, where the log says "
            f"{expected.size} bytes with CRC {expected.crc:08x}"
        )


class _Filter:
    """A program between two pipes: ``stdin`` and ``stdout`` are our ends of them, files."""

    def __init__(self, argv, user, inherited):
        self._argv = argv
        self._process = None
        try:
            self._stderr = tempfile.TemporaryFile()
        except OSError as error:
            raise ServerError(f"no temporary file can be made: {error.strerror}") from error
        stdin, self.stdin = _pipe()
        # our writers must be able to hear that they are to stop; the program's own may wait
        os.set_blocking(self.stdin.fileno(), False)
        self.stdout, stdout = _pipe()
        with stdin, stdout:
            try:
                self._process = amanda_command.popen(
                    argv,
                    user,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=self._stderr,
                    pass_fds=inherited,
                )
            except OSError as error:
                self.close()
                raise ServerError(f"can't run {argv[0]}: {error.strerror}") from error

    def failure(self):
        """Wait for its end; return the :class:`AmandaError` that says why it failed, or None."""
        status = self._process.wait()
        if status == 0:
            return None
        length = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, length - _STDERR_LIMIT))
        said = self._stderr.read().decode(errors="replace").strip()
        if status > 0 and (error := amanda_identity.refusal(said)):
            return error
        # killed, or what a shell says of a program that it can't run
        kind = ServerError if status < 0 or status in (126, 127) else AmandaError
        return kind(f"{self._argv[0]} failed with status {status}: {said or 'nothing on stderr'}")

    def kill(self):
        self._process.kill()

    def close(self):
        """Give back all it had; it must have been killed, or have ended."""
        self.stdin.close()
        self.stdout.close()
        if self._process:
            self._process.wait()
        self._stderr.close()


def _pipe():
    """Return a pipe's two ends, files without buffer; it holds a whole chunk if that is allowed."""
    reader, writer = os.pipe()
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, CHUNK)
    return open(reader, "rb", buffering=0), open(writer, "wb", buffering=0)


class Pipeline:
    """Moves *source* through programs to the stream ``out``, for the length of a ``with`` block.

    source
        An object with ``readinto(bytearray)`` and ``close()``.
    commands
        The programs, a list of lists; may be empty.
    stages
        The :class:`Stage` objects to measure before the first program, between, and after the
        last: a list of lists, one longer than *commands*.
    user
        Who the programs run as; None is the caller.
    name
        What the data is, for messages.
    inherited
        Descriptors that the programs have open, under the same numbers.
    """

    def __init__(self, source, commands, stages, user, name, inherited=()):
        self._source = source
        self._commands = commands
        self._stages = stages
        self._user = user
        self._name = name
        self._inherited = inherited
        self._filters = []
        self._threads = []
        self._failures = []  # (which stretch, exception)
        self._complete = set()  # stretches that came to the end of their input
        self.out = None

    def __enter__(self):
        self._stopped, self._stop = os.pipe()
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind, error, trace):
        self._end()

    def _start(self):
        for argv in self._commands:
            self._filters.append(_Filter(argv, self._user, self._inherited))
        reader, writer = _pipe()
        os.set_blocking(writer.fileno(), False)
        with reader:
            self.out = open(os.dup(reader.fileno()), "rb", buffering=CHUNK)
        feeds = [self._source, *(one.stdout for one in self._filters)]
        targets = [*(one.stdin for one in self._filters), writer]
        for stretch in zip(range(len(feeds)), feeds, targets, strict=True):
            thread = threading.Thread(target=self._pump, args=stretch, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _end(self):
        """Stop what still runs, and give back processes, threads and files."""
        os.close(self._stop)  # wakes every writer, by the other end of this pipe
        for one in self._filters:
            one.kill()
        if self.out:
            self.out.close()
        for thread in self._threads:
            thread.join()
        for one in self._filters:
            one.close()
        self._source.close()
        os.close(self._stopped)

    def finish(self):
        """Read what is left, then raise :class:`AmandaError` if anything was wrong on the way."""
        if not self.out.closed:
            while self.out.read(CHUNK):
                pass
        for thread in self._threads:
            thread.join()
        if failure := self.failure():
            raise failure
        if len(self._complete) < len(self._threads):
            raise AmandaError(f"{self._name}: it was not read to its end")

    def failure(self):
        """Return the :class:`AmandaError` that says all that went wrong so far, or None.

        What follows the stretch where this server or its key failed comes of that, and isn't told.
        """
        if not self._failures:
            return None
        ordered = sorted(self._failures, key=lambda failure: failure[0])
        kinds = (ServerError, SealedError)
        causes = [failure for failure in ordered if isinstance(failure[1], kinds)]
        kind = AmandaError
        if causes:
            before = [failure for failure in ordered if failure[0] < causes[0][0]]
            ordered = [*before, *causes]
            at_fault = any(isinstance(error, ServerError) for _, error in causes)
            kind = ServerError if at_fault else SealedError
        return kind(f"{self._name}: {'; '.join(str(error) or repr(error) for _, error in ordered)}")

    def _pump(self, position, feed, target):
        """Move one stretch, in a thread of its own."""
        try:
            if self._move(position, feed, target):
                self._complete.add(position)
        except OSError as error:  # told to the reader: a thread has nobody else to tell
            self._failures.append((position, unreadable(error, error)))
        except AmandaError as error:
            self._failures.append((position, error))
        except Exception as error:
            self._failures.append((position, ServerError(f"{type(error).__name__}: {error}")))
        finally:
            target.close()
            if position:
                feed.close()

    def _move(self, position, feed, target):
        """Move a stretch; returns True if its input came to its end and all of it was passed on."""
        buffer = bytearray(CHUNK)
        while length := feed.readinto(buffer):
            for stage in self._stages[position]:
                length = stage.take(buffer, length)
                if length is None:
                    raise AmandaError(stage.complaint())
            if not self._write(target.fileno(), memoryview(buffer)[:length]):
                return False
        complaints = dict.fromkeys(stage.complaint() for stage in self._stages[position])
        failures = [AmandaError(text) for text in complaints if text]
        if position and (failure := self._filters[position - 1].failure()):
            failures.append(failure)
        self._failures += [(position, failure) for failure in failures]
        return True

    def _write(self, target, data):
        """Write all of *data*; returns False if nobody reads it any more, or on :meth:`_end`."""
        poll = select.poll()
        poll.register(target, select.POLLOUT)
        poll.register(self._stopped, select.POLLIN)
        while data:
            try:
                data = data[os.write(target, data) :]
            except BlockingIOError:
                if any(number == self._stopped for number, _ in poll.poll()):
                    return False
            except BrokenPipeError:
                return False
        return True

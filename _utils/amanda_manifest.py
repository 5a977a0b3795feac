"""What a generation of the mirror says of itself, and where its files stand.

Below the mirror's directory, for each config::

    <config>/tapes/<label>/<written>/NNNNN.*      a tape's files, each once, never changed
    <config>/tapes/<label>/<written>/SHA256SUMS   for 'sha256sum -c'
    <config>/generations/<UTC>/manifest.json      every file this generation needs
    <config>/generations/<UTC>/manifest.sha256    for 'sha256sum -c'
    <config>/generations/<UTC>/catalogue.*        the catalogue, sealed as the dumps are
    <config>/generations/<UTC>/EMERGENCY.txt      how to restore by hand, see amanda_sheet

A name that ends in ``.partial`` is something unfinished, or half removed. Whoever can write the
mirror can write a manifest, so none is believed: every name in it is checked before it is used.
"""

import dataclasses
import hashlib
import json
import re
from pathlib import PurePosixPath

from amanda_errors import AmandaError

FORMAT = 1
PARTIAL = ".partial"
TAPES, GENERATIONS = "tapes", "generations"
MANIFEST, MANIFEST_SUM, SUMS = "manifest.json", "manifest.sha256", "SHA256SUMS"
SHEET = "EMERGENCY.txt"

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
WRITTEN = re.compile(r"[0-9]{14}")
TAPE_FILE = re.compile(r"[0-9]{5}\.[^/\0]{1,249}", re.DOTALL)
GENERATION = re.compile(r"[0-9]{8}T[0-9]{6}Z")
STANDING = re.compile("usual|doubtful|accepted")
_ARCHIVE = re.compile(r"catalogue\.[a-z0-9.]{1,40}")
_SHEET = re.compile(re.escape(SHEET))
SHA256 = re.compile(r"[0-9a-f]{64}")
_SUM_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class File:
    """A file that a generation needs: its *name*, *size* in bytes, and *sha256* in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class TapeCopy:
    """A tape as it was *written* at one time (14 digits), with its *files*."""

    label: str
    written: str
    files: tuple

    @property
    def key(self):
        """What names this copy among all: label and write time."""
        return (self.label, self.written)

    @property
    def size(self):
        """Bytes of all its files."""
        return sum(file.size for file in self.files)


@dataclasses.dataclass(frozen=True)
class Archive:
    """The sealed catalogue.

    file
        The :class:`File`.
    method
        How it is sealed: the encryption's method.
    conf, state
        Where in the archive the config's directories are; relative paths.
    """

    file: File
    method: str
    conf: str
    state: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One generation.

    config, generation
        The config's name, and the generation's: the UTC time it was begun.
    run
        The timestamp of the run it follows, "" if it follows none.
    server
        The host name of the server that wrote it.
    tapes
        Every :class:`TapeCopy` it needs, in the order of the labels.
    archive
        The :class:`Archive`.
    fulls
        For each DLE the tapes of its last good full: ``{"web1 /etc": ((label, written), …)}``.
    new_bytes
        How many bytes of tapes this generation added.
    sheet
        The :class:`File` of the emergency sheet; None in generations of before there was one.
    standing
        "usual"; "doubtful" if it was unusual beside those before it; "accepted" if an
        administrator said that it is right, whatever was usual before.
    source
        The text it was read from, "" if it was not; no part of what it says.
    """

    config: str
    generation: str
    run: str
    server: str
    tapes: tuple
    archive: Archive
    fulls: dict
    new_bytes: int
    standing: str = "usual"
    sheet: File | None = None
    source: str = dataclasses.field(default="", compare=False, repr=False)

    @property
    def size(self):
        """Bytes of all that it needs, but for the manifest itself."""
        return sum(tape.size for tape in self.tapes) + sum(file.size for file in self.files)

    @property
    def files(self):
        """Every :class:`File` in its own directory but for the manifest, a tuple."""
        return (self.archive.file, self.sheet) if self.sheet else (self.archive.file,)

    @property
    def keys(self):
        """The (label, written) of every tape it needs, a set."""
        return {tape.key for tape in self.tapes}


def encode(manifest):
    """Return the text of manifest.json."""
    data = {"format": FORMAT, **dataclasses.asdict(manifest)}
    del data["source"]
    return json.dumps(data, indent=1) + "\n"


def decode(text, config, generation):
    """Return the :class:`Manifest` in *text*, as it was read from a mirror.

    config, generation
        Where it was found; it must say the same of itself.

    Raises :class:`~amanda_errors.AmandaError` naming the generation if anything in it isn't as
    :func:`encode` writes it.
    """
    try:
        manifest = _manifest(json.loads(text))
        _must(manifest.config == config, "it is another config's")
        _must(manifest.generation == generation, "it is another generation's")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise AmandaError(
            f"generation {generation} of {config}: its {MANIFEST} can't be believed: {error}"
        ) from None
    return dataclasses.replace(manifest, source=text)


def _manifest(data):
    _must(_typed(data["format"], int) == FORMAT, f"its format is {data['format']!r}")
    tapes = tuple(_tape(tape) for tape in _typed(data["tapes"], list))
    _must(len({tape.key for tape in tapes}) == len(tapes), "it names a tape twice")
    fulls = {
        _typed(dle, str): tuple((_name(LABEL, label), _name(WRITTEN, when)) for label, when in keys)
        for dle, keys in _typed(data["fulls"], dict).items()
    }
    return Manifest(
        config=_typed(data["config"], str),
        generation=_name(GENERATION, data["generation"]),
        run=_name(re.compile(r"([0-9]{14})?"), data["run"]),
        server=_typed(data["server"], str),
        tapes=tapes,
        archive=_archive(data["archive"]),
        fulls=fulls,
        new_bytes=_size(data["new_bytes"]),
        standing=_name(STANDING, data.get("standing", "usual")),
        sheet=_file(data["sheet"], _SHEET) if data.get("sheet") else None,
    )


def _tape(data):
    files = tuple(_file(file, TAPE_FILE) for file in _typed(data["files"], list))
    _must(len({file.name for file in files}) == len(files), "it names a file twice")
    return TapeCopy(_name(LABEL, data["label"]), _name(WRITTEN, data["written"]), files)


def _file(data, pattern):
    name = _name(pattern, data["name"])
    return File(name, _size(data["size"]), _name(SHA256, data["sha256"]))


def _archive(data):
    method = _name(re.compile(r"[a-z0-9]{1,20}"), data["method"])
    conf, state = (_inside(data[key]) for key in ("conf", "state"))
    return Archive(_file(data["file"], _ARCHIVE), method, conf, state)


def _inside(path):
    """Return *path* if it stays inside the directory that it is relative to."""
    parts = PurePosixPath(_typed(path, str)).parts
    _must(parts and parts[0] != "/" and ".." not in parts, f"{path!r} is no path below another")
    _must("\0" not in path, f"{path!r} is no path")
    return path


def _name(pattern, value):
    _must(pattern.fullmatch(_typed(value, str)) is not None, f"{value!r} is no name it may use")
    return value


def _size(value):
    sane = not isinstance(value, bool) and 0 <= _typed(value, int) < 1 << 63
    _must(sane, f"{value!r:.100} is no size")
    return value


def _typed(value, kind):
    _must(isinstance(value, kind), f"{value!r:.100} stands where a {kind.__name__} should")
    return value


def _must(condition, problem):
    if not condition:
        raise ValueError(problem)


def sums(files):
    """Return the text of SHA256SUMS for some :class:`File`; sha256sum(1) reads it."""
    lines = []
    for file in files:
        name = file.name.replace("\\", "\\\\").replace("\n", "\\n")
        lines.append(f"{'' if name == file.name else chr(92)}{file.sha256}  {name}\n")
    return "".join(lines)


def read_sums(text):
    """Return ``{name: sha256}`` from the text of a SHA256SUMS.

    Raises :class:`~amanda_errors.AmandaError` on a line that :func:`sums` wouldn't write.
    """
    found = {}
    for line in text.split("\n")[:-1]:
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise AmandaError(f"can't read this line of {SUMS}: {line!r}")
        name = match[3]
        if match[1]:
            name = re.sub(r"\\(.)", lambda pair: "\n" if pair[1] == "n" else pair[1], name)
        found[name] = match[2]
    return found


def of_text(name, text):
    """Return the :class:`File` that is called *name* and holds *text*."""
    return File(name, len(text.encode()), digest(text))


def digest(text):
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()

"""A small Amanda of its own on this host: one config, virtual tapes, ``auth "local"``.

For tests as root on a host with Amanda's server and client. Every dump is a real amdump; a shifted
clock comes from faketime, never from the host's own.
"""

import shutil
import subprocess
from pathlib import Path

import amanda_layout

USER = "backup"

_CONF = """\
org "{name}"
mailto ""
dumpuser "backup"
inparallel 4
dumpcycle {dumpcycle}
runspercycle 7
tapecycle {tapecycle}
bumpsize 1 kbytes
bumpdays 1
infofile "{state}/curinfo"
logdir "{state}/log"
indexdir "{state}/index"
tapelist "{state}/tapelist"
{options}
define changer vtapes {{
  tpchanger "chg-disk:{tapes}"
  property "num-slot" "{slots}"
}}
define tapetype VTAPE {{
  length {length}
  part-size {part_size}
}}
define policy keep {{
  retention-tapes {retention}
}}
define storage "{name}" {{
  tpchanger "vtapes"
  tapetype "VTAPE"
  labelstr "^{name}-[0-9][0-9][0-9][0-9]+$"
  autolabel "{name}-%%%%" any
  runtapes {runtapes}
  policy "keep"
  tapepool "{name}"
}}
storage "{name}"
holdingdisk hd1 {{
  directory "{holding}"
  use 200 mbytes
}}
define application-tool amgtar {{
  plugin "amgtar"
  property "XATTRS" "YES"
  property "ACLS" "YES"
}}
define dumptype plain {{
  auth "local"
  program "APPLICATION"
  application "amgtar"
  compress none
  index yes
  maxdumps 4
  maxpromoteday 0
  estimate server
}}
define dumptype gzip {{
  plain
  compress client fast
}}
define dumptype sealed {{
  plain
  compress client custom
  client-custom-compress "{compress}"
  encrypt server
  server-encrypt "{crypt}"
  server-decrypt-option "-d"
}}
define dumptype sealed-gzip {{
  sealed
  compress client fast
}}
define dumptype direct {{
  sealed
  holdingdisk never
}}
"""


class LocalAmanda:
    """One config and what belongs to it; made at once, removed by :meth:`remove`.

    name
        The config's name.
    disks
        Lines of the disklist, without the host: ``[("/srv/a", "plain")]``.
    options
        Lines for amanda.conf; other keywords replace the numbers in the template.
    """

    def __init__(self, name, disks, options="", **numbers):
        self.root = Path("/var/tmp/local-amanda") / name
        self.places = amanda_layout.ConfigPlaces(
            name=name,
            conf=amanda_layout.AMANDA_CONFIGS / name,
            state=self.root / "state",
            tapes=self.root / "tapes",
            holding=self.root / "holding",
        )
        self.remove()
        self.values = {
            "dumpcycle": 7,
            "tapecycle": 4,
            "retention": 3,
            "runtapes": 2,
            "slots": 6,
            "length": "4 mbytes",
            "part_size": "512 kbytes",
            **numbers,
        }
        places = self.places
        for directory in [places.conf, places.logs, places.index, places.info, places.holding]:
            directory.mkdir(parents=True)
        for number in range(1, self.values["slots"] + 1):
            (places.tapes / f"slot{number}").mkdir(parents=True)
        places.tapelist.touch()
        self.configure(options)
        self.disklist(disks)
        for directory in [places.conf, self.root]:
            subprocess.run(["chown", "-R", "backup:backup", directory], check=True)

    def configure(self, options="", **numbers):
        """Write amanda.conf, with *options* and other *numbers* than before."""
        self.values.update(numbers)
        text = _CONF.format(
            name=self.places.name,
            options=options,
            state=self.places.state,
            tapes=self.places.tapes,
            holding=self.places.holding,
            compress=amanda_layout.COMPRESS,
            crypt=amanda_layout.CRYPT["age"],
            **self.values,
        )
        (self.places.conf / "amanda.conf").write_text(text, encoding="utf-8")

    def disklist(self, disks):
        """Write the disklist: pairs of a disk, quoted as Amanda wants it, and a dumptype."""
        lines = [f"localhost {disk} {dumptype}\n" for disk, dumptype in disks]
        (self.places.conf / "disklist").write_text("".join(lines), encoding="utf-8")

    def command(self, *argv, shift="+0d"):
        """Run one of Amanda's commands as the dump user; returns the finished process.

        shift
            How far the command's clock is ahead, as faketime(1) takes it: ``+9d``.
        """
        return subprocess.run(
            ["runuser", "-u", USER, "--", "faketime", "-f", shift, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            timeout=300,
            check=False,
        )

    def dump(self, shift="+0d"):
        """Run amdump once; returns its exit status, a bit mask."""
        return self.command("amdump", self.places.name, shift=shift).returncode

    def remove(self):
        """Take away everything of it; nothing if there is nothing."""
        for directory in [self.root, self.places.conf]:
            shutil.rmtree(directory, ignore_errors=True)

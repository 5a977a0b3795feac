"""What the Makefile asks for: the directory of the wheels, or all requirements of the tests."""

import sys

from tests.testbed import images

if sys.argv[1:] == ["wheels"]:
    print(images.prepare_wheels())
elif sys.argv[1:] == ["requirements"]:
    print(*(line for extra in ("test", "unit", "lint") for line in images.pinned(extra)))
else:
    sys.exit("usage: python3 -m tests.testbed wheels | requirements")
